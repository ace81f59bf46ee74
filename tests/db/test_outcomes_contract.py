"""What every store promises about finalists, winners, lookups, related configs and exports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from db.errors import StoreError
from db.records import ExportRecord
from db.store import Store


def _best(store: Store, definition: str = "gemm", **filters: Any) -> list[tuple[int, str, str]]:
    return [(b.sweep_id, b.environment.hardware, b.winner.regime) for b in store.best.rows(definition, **filters)]


def test_a_comparison_keeps_its_samples_with_the_sweep(store: Store, scene: Any) -> None:
    scene = scene(store)
    sweep_id, other = scene.sweep(), scene.sweep()
    for number in range(2):
        store.trials.commit(scene.trial(sweep_id, number))
    first = [scene.measurement("w1", config_hash=h, samples_us=(1.0,)) for h in ("hash0", "hash1")]
    store.winners.commit_comparison(sweep_id, first)
    store.winners.commit_comparison(other, first)
    longer = [replace(m, samples_us=(1.0, 2.0), median_us=1.5, measured_at=9.0) for m in first]
    store.winners.commit_comparison(sweep_id, longer)
    assert [replace(m, id=0) for m in store.winners.finalists(sweep_id)] == longer
    assert [m.samples_us for m in store.winners.finalists(other)] == [(1.0,), (1.0,)]
    assert [m.samples_us for m in store.trials.of(sweep_id, details=True)[0].measurements] == [(2.5, 1.5, 2.0)] * 2


def test_measured_rates_are_kept_with_their_environment(store: Store, scene: Any) -> None:
    one, other = scene(store), scene(store, hardware="AMD EPYC", target="cpu")
    assert store.catalog.rates(other.environment_id) == {}
    store.catalog.set_rates(other.environment_id, {"copy_bytes_per_us": 12e3})
    assert store.catalog.rates(other.environment_id) == {"copy_bytes_per_us": 12e3}
    assert store.catalog.rates(one.environment_id) == {}
    assert scene(store, hardware="AMD EPYC", target="cpu").environment_id == other.environment_id


def test_a_finalist_is_a_config_with_a_trial(store: Store, scene: Any) -> None:
    scene = scene(store)
    sweep_id = scene.sweep()
    store.trials.commit(scene.trial(sweep_id, 0))
    with pytest.raises(StoreError, match="config 'hash8' has no trial"):
        store.winners.commit_comparison(sweep_id, [scene.measurement(config_hash=h) for h in ("hash0", "hash8")])
    with pytest.raises(StoreError, match="config 'hash8' has no trial"):
        store.winners.set(sweep_id, [scene.winner(0), scene.winner(8, "large")])
    assert store.winners.finalists(sweep_id) == []
    assert store.winners.of(sweep_id) == []


def test_winners_come_back_as_they_were_set(store: Store, scene: Any) -> None:
    scene = scene(store)
    large = scene.winner(1, "large", workloads=(), size_axis=None, max_size=None, default_median_us=None)
    unfit = ((3, 4), (100, None))
    sweep_id = scene.finished(scene.winner(0, unfit_sizes=unfit), large)
    axes = [{"seq_len": 1}, {"seq_len": 10}]
    small = scene.winner(0, config={"tile": 0}, unfit_sizes=unfit)
    small = replace(small, workloads=tuple(replace(w, axes=a) for w, a in zip(small.workloads, axes, strict=True)))
    assert store.winners.of(sweep_id) == [small, replace(large, config={"tile": 1})]


def test_setting_winners_again_replaces_them(store: Store, scene: Any) -> None:
    scene = scene(store)
    sweep_id = scene.finished(scene.winner(0), scene.winner(1, "large"))
    store.winners.set(sweep_id, [scene.winner(2)])
    assert [(w.regime, w.config) for w in store.winners.of(sweep_id)] == [("small", {"tile": 2})]
    with pytest.raises(StoreError):
        store.winners.set(sweep_id, [scene.winner(0), scene.winner(1)])
    assert [(w.regime, w.config) for w in store.winners.of(sweep_id)] == [("small", {"tile": 2})]


def test_the_newest_finished_sweep_is_the_best_row(store: Store, scene: Any) -> None:
    scene = scene(store)
    older = scene.finished(scene.winner(0), scene.winner(1, "large"))
    newer = scene.finished(scene.winner(2), state="INTERRUPTED")
    assert _best(store) == [(newer, "NVIDIA H100", "small"), (older, "NVIDIA H100", "large")]
    row = store.best.rows("gemm")[0]
    assert (row.winner.config, row.space, row.space_fingerprint, row.target) == ({"tile": 2}, "tiles", "src1", "sm_90a")
    assert [w.axes for w in row.winner.workloads] == [{"seq_len": 1}, {"seq_len": 10}]
    assert row.environment.versions == {"torch": "2.13.0"}
    assert (row.export_id, row.solution) == (None, None)
    assert row.finished_at == store.sweeps.get(newer).finished_at


def test_failed_and_unfinished_sweeps_give_no_best_row(store: Store, scene: Any) -> None:
    scene = scene(store)
    scene.finished(state="FAILED")
    running = scene.sweep(owner="me")
    store.trials.commit(scene.trial(running, 0))
    store.winners.set(running, [scene.winner(0)])
    assert _best(store) == []


def test_a_resumed_sweep_keeps_its_earlier_winners_until_it_ends(store: Store, scene: Any) -> None:
    sweep_id = scene(store).finished()
    store.sweeps.claim(sweep_id, "again", 60.0)
    assert _best(store) == [(sweep_id, "NVIDIA H100", "small")]


def test_the_stamp_of_best_rows_is_another_whenever_they_are(store: Store, scene: Any) -> None:
    scene = scene(store)

    def look() -> tuple[Any, Any]:
        return store.best.stamp("gemm"), store.best.rows("gemm")

    def resumed(sweep_id: int) -> None:
        store.sweeps.claim(sweep_id, "again", 60.0)
        store.winners.set(sweep_id, [scene.winner(1), scene.winner(0, "large")])

    first, failed = scene.finished(scene.winner(0)), scene.finished(scene.winner(2), state="FAILED")
    changes: list[Callable[[], object]] = [
        lambda: scene.finished(scene.winner(1)),
        lambda: resumed(first),
        lambda: store.sweeps.finish(first, "INTERRUPTED", {}),
        lambda: store.sweeps.claim(failed, "again", 60.0),
        lambda: store.winners.set(failed, [scene.winner(1)]),
        lambda: store.sweeps.finish(failed, "FAILED", {}),
        lambda: store.exports.record(ExportRecord(first, "solution", "digest", {}, {})),
    ]
    before = look()
    for change in changes:
        change()
        after = look()
        assert after == look()
        assert after[0] != before[0]
        before = after


def test_the_stamp_of_best_rows_minds_its_own_definition(store: Store, scene: Any) -> None:
    other, scene = scene(store, definition="rmsnorm"), scene(store)
    sweep_id = scene.finished()
    before = store.best.stamp("gemm")
    other.finished()
    scene.sweep(owner="me")
    store.trials.commit(scene.trial(scene.sweep(), 0))
    assert store.best.stamp("gemm") == before
    assert store.best.stamp("rmsnorm") != store.best.stamp("none")
    assert sweep_id == store.best.rows("gemm")[0].sweep_id


def test_hardware_target_and_definition_are_never_mixed(store: Store, scene: Any) -> None:
    h100 = scene(store).finished()
    b200 = scene(store, hardware="NVIDIA B200", target="sm_100a").finished()
    norm = scene(store, definition="rmsnorm").finished()
    assert _best(store) == [(b200, "NVIDIA B200", "small"), (h100, "NVIDIA H100", "small")]
    assert _best(store, hardware="nvidia h100") == [(h100, "NVIDIA H100", "small")]
    assert _best(store, hardware="NVIDIA H1") == []
    assert _best(store, target="sm_100a") == [(b200, "NVIDIA B200", "small")]
    assert _best(store, "rmsnorm") == [(norm, "NVIDIA H100", "small")]
    assert _best(store, "none") == []


def test_related_configs_prefer_the_same_definition_then_hardware_then_age(store: Store, scene: Any) -> None:
    here = scene(store)
    there = scene(store, hardware="NVIDIA B200", target="sm_100a", fingerprint="src2")
    norm = scene(store, definition="rmsnorm")
    scene(store, space="other").finished(here.winner(3))
    other_definition = norm.finished(norm.winner(0))
    other_hardware = there.finished(there.winner(1))
    own = here.finished(here.winner(2))
    asking = here.finished(here.winner(3))
    found = store.best.related("tiles", definition="gemm", hardware="NVIDIA H100", exclude_sweep=asking)
    assert [(r.sweep_id, r.config) for r in found] == [
        (own, {"tile": 2}),
        (other_hardware, {"tile": 1}),
        (other_definition, {"tile": 0}),
    ]
    assert (found[1].hardware, found[1].target, found[1].regime, found[1].median_us) == (
        "NVIDIA B200",
        "sm_100a",
        "small",
        2.0,
    )
    repeated = here.finished(here.winner(1))
    first = store.best.related("tiles", definition="gemm", hardware="NVIDIA H100", limit=2)
    assert [(r.sweep_id, r.config) for r in first] == [(repeated, {"tile": 1}), (asking, {"tile": 3})]


def test_exports_are_found_by_definition_sweep_and_id(store: Store, scene: Any) -> None:
    gemm, norm = scene(store).finished(), scene(store, definition="rmsnorm").finished()
    record = ExportRecord(gemm, "gemm-v1", "d1", {"small": "hash0"}, {"w1": "PASSED"}, '{"a": 1}', "out/a.json", 5.0)
    first = store.exports.record(record)
    second = store.exports.record(replace(record, solution="gemm-v2"))
    store.exports.record(replace(record, sweep_id=norm, solution="norm-v1"))
    assert store.exports.get(first) == replace(record, id=first, definition="gemm")
    assert store.exports.get(999) is None
    assert [e.solution for e in store.exports.newest()] == ["norm-v1", "gemm-v2", "gemm-v1"]
    assert [(e.solution, e.content) for e in store.exports.newest("gemm")] == [("gemm-v2", ""), ("gemm-v1", "")]
    (best,) = store.best.rows("gemm")
    assert (best.export_id, best.solution) == (second, "gemm-v2")
