"""What the service keeps in the store: tokens, tickets, stop requests, and trials read in pieces; on every database."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import create_engine, text

from db.errors import NoSuchSweep, StoreError
from db.records import TokenRecord
from db.store import Store


def test_a_token_is_found_by_its_key(store: Store) -> None:
    assert not store.tokens.any()
    store.tokens.create(TokenRecord("k1", "hash", ("read", "run"), "ci", created_at=5.0, expires_at=9.0))
    found = store.tokens.get("k1")
    assert found is not None
    assert (found.secret_hash, found.scopes, found.name, found.expires_at, found.revoked_at) == (
        "hash", ("read", "run"), "ci", 9.0, None,
    )  # fmt: skip
    assert store.tokens.get("k2") is None
    assert set(store.tokens.find(["k1", "k2"])) == {"k1"}
    assert store.tokens.any()


def test_a_key_names_one_token(store: Store) -> None:
    store.tokens.create(TokenRecord("k1", "hash", ("read",)))
    with pytest.raises(StoreError):
        store.tokens.create(TokenRecord("k1", "other", ("run",)))
    assert [t.secret_hash for t in store.tokens.all()] == ["hash"]


def test_revoking_is_final_and_counts_once(store: Store) -> None:
    store.tokens.create(TokenRecord("k1", "hash", ("read",)))
    assert store.tokens.revoke("k1")
    first = store.tokens.all()[0].revoked_at
    assert first is not None
    assert store.tokens.revoke("k1")
    assert store.tokens.all()[0].revoked_at == first
    assert not store.tokens.revoke("nobody")
    assert store.tokens.any()


def test_a_ticket_leads_to_its_sweep(store: Store, scene: Any) -> None:
    stage = scene(store)
    assert store.sweeps.of_ticket("t1") is None
    sweep_id = stage.sweep(ticket="t1")
    stage.sweep()
    stage.sweep()
    assert store.sweeps.of_ticket("t1") == sweep_id
    assert store.sweeps.get(sweep_id).ticket == "t1"


def test_a_stop_is_asked_of_who_holds_the_sweep_and_forgotten_by_a_resume(store: Store, scene: Any) -> None:
    stage = scene(store)
    held, free = stage.sweep(owner="host:1"), stage.sweep()
    assert store.sweeps.request_stop(held)
    assert store.sweeps.stop_requested(held)
    first = store.sweeps.get(held).stop_requested_at
    assert store.sweeps.request_stop(held)
    assert store.sweeps.get(held).stop_requested_at == first, "when it was asked for first"
    assert not store.sweeps.request_stop(free)
    assert not store.sweeps.stop_requested(free)
    store.sweeps.finish(held, "INTERRUPTED", {})
    store.sweeps.claim(held, "host:2", 30.0)
    assert not store.sweeps.stop_requested(held)


def test_trials_are_read_in_pieces_as_they_were_committed(store: Store, scene: Any) -> None:
    stage = scene(store)
    sweep_id, other = stage.sweep(), stage.sweep()
    for number in (2, 0, 1):
        store.trials.commit(stage.trial(sweep_id, number))
    store.trials.commit(stage.trial(other, 0))
    first = store.trials.of(sweep_id, measurements=False, after_id=0, limit=2)
    assert [t.number for t in first] == [2, 0]
    assert [t.measurements for t in first] == [(), ()]
    rest = store.trials.of(sweep_id, measurements=False, after_id=first[-1].id, limit=2)
    assert [t.number for t in rest] == [1]
    one = store.trials.of(sweep_id, number=1, details=True)
    assert [(t.number, len(t.measurements), t.measurements[0].samples_us) for t in one] == [(1, 2, (2.5, 1.5, 2.0))]


def test_counts_of_several_sweeps(store: Store, scene: Any) -> None:
    stage = scene(store)
    first, second = stage.sweep(), stage.sweep()
    store.trials.commit(stage.trial(first, 0))
    store.trials.commit(stage.trial(first, 1, state="TIMEOUT", measurements=(), objective=None))
    assert store.trials.counts([first, second]) == {first: {"PASSED": 1, "TIMEOUT": 1}, second: {}}
    assert store.sweeps.states() == {"RUNNING": 2}


def test_what_was_swept_is_what_finished(store: Store, scene: Any) -> None:
    stage = scene(store)
    stage.sweep()
    assert store.best.swept() == []
    stage.finished()
    stage.finished()
    assert store.best.swept() == [("gemm", "NVIDIA H100")]
    assert store.catalog.workload_axes(["w1", "w3", "none"]) == {"w1": {"seq_len": 1}, "w3": {"seq_len": 100}}


def test_sweeps_are_listed_in_pages(store: Store, scene: Any) -> None:
    stage = scene(store)
    ids = [stage.sweep() for _ in range(3)]
    assert [s.id for s in store.sweeps.newest(2)] == [ids[2], ids[1]]
    assert [s.id for s in store.sweeps.newest(2, before=ids[1])] == [ids[0]]


def test_a_sweep_that_is_not_there_has_an_error_of_its_own(store: Store) -> None:
    with pytest.raises(NoSuchSweep, match="there is no sweep 7"):
        store.sweeps.get(7)


def test_points_are_all_trials_of_one_sweep_by_number(store: Store, scene: Any) -> None:
    stage = scene(store)
    sweep_id = stage.sweep()
    ids = {n: store.trials.commit(stage.trial(sweep_id, n)) for n in (2, 0)}
    ids[1] = store.trials.commit(stage.trial(sweep_id, 1, objective=None, state="TIMEOUT", measurements=()))
    store.trials.commit(stage.trial(stage.sweep(), 0))
    points = store.trials.points(sweep_id)
    assert [(p.id, p.number, p.objective, p.config) for p in points] == [
        (ids[0], 0, 10.0, {"tile": 0}), (ids[1], 1, None, {"tile": 1}), (ids[2], 2, 12.0, {"tile": 2}),
    ]  # fmt: skip
    assert (points[1].state, points[1].regime) == ("TIMEOUT", "small")


def test_failures_are_counted_by_state_and_reason(store: Store, scene: Any) -> None:
    stage = scene(store)
    sweep_id = stage.sweep()
    for number, (state, reason) in enumerate([("PASSED", ""), ("TIMEOUT", "b"), ("CRASHED", "b"), ("TIMEOUT", "b")]):
        store.trials.commit(stage.trial(sweep_id, number, state=state, reason=reason))
    counted = store.trials.failures(sweep_id, not_failures=("PASSED",))
    assert [(f.state, f.reason, f.trials, f.first) for f in counted] == [("TIMEOUT", "b", 2, 1), ("CRASHED", "b", 1, 2)]


def test_a_token_is_seen_as_soon_as_another_process_has_written_it(shared_url: str) -> None:
    with Store.open(shared_url) as reader, Store.open(shared_url) as writer:
        assert not reader.tokens.any()
        for number in range(3):
            assert reader.tokens.get(f"k{number}") is None
            writer.tokens.create(TokenRecord(f"k{number}", "hash", ("read",)))
            assert reader.tokens.get(f"k{number}") is not None
        assert writer.tokens.revoke("k1")
        assert reader.tokens.find(["k1"])["k1"].revoked_at is not None


@pytest.mark.postgres
def test_tokens_are_read_on_though_every_connection_broke(postgres_url: str) -> None:
    with Store.open(postgres_url) as store:
        store.tokens.create(TokenRecord("k1", "hash", ("read",)))
        for _ in range(2):
            assert store.tokens.get("k1") is not None
            with create_engine(store.database.url).begin() as other:
                ended = other.execute(
                    text(
                        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                )
                assert ended.scalar_one() >= 1
            assert store.tokens.get("k1") is not None
            assert store.tokens.any()
