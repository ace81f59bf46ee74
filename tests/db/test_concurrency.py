"""Several writers, killed writers and dropped connections: no trial is lost, doubled or half there."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text

from db.errors import StoreError, SweepBusy
from db.store import Store

CHILD = Path(__file__).with_name("child.py")
TABLES = ("variant", "build", "trial", "measurement", "trial_measurement")


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts ``child.py``; what still runs at the end of the test is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(action: str, url: str, sweep_id: int, number: int) -> subprocess.Popen[str]:
        command = [sys.executable, str(CHILD), action, url, str(sweep_id), str(number)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _rows(store: Store) -> dict[str, int]:
    with store.database.engine.connect() as connection:
        return {t: connection.execute(text(f"SELECT count(*) FROM {t}")).scalar_one() for t in TABLES}


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def _drop_connection(connection: Any, other: Store) -> None:
    """The server ends the session of ``connection``, as another one tells it to."""
    pid = connection.connection.dbapi_connection.info.backend_pid
    with other.database.engine.begin() as killer:
        killer.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})


def _together(*jobs: Callable[[], Any]) -> list[BaseException]:
    """Runs the jobs in threads that start at once; gives what they raised."""
    start = threading.Barrier(len(jobs))
    raised: list[BaseException] = []

    def run(job: Callable[[], Any]) -> None:
        start.wait()
        try:
            job()
        except BaseException as error:  # shown by the test
            raised.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_processes_with_the_same_configs_share_variants_and_measurements(
    shared_url: str, scene: Any, spawn: Callable[..., Any]
) -> None:
    with Store.open(shared_url) as store:
        sweeps = [scene(store).sweep(), scene(store).sweep()]
        processes = [spawn("commit", shared_url, sweep_id, 40) for sweep_id in sweeps]
        assert [process.wait() for process in processes] == [0, 0]
        for sweep_id in sweeps:
            trials = store.trials.of(sweep_id)
            assert [t.number for t in trials] == list(range(40))
            assert all([m.workload for m in t.measurements] == ["w1", "w2"] for t in trials)
        assert _rows(store) == {
            "variant": 40,
            "build": 40,
            "trial": 80,
            "measurement": 80,
            "trial_measurement": 160,
        }


def test_threads_share_a_store(store: Store, scene: Any) -> None:
    scene = scene(store)
    sweeps = [scene.sweep() for _ in range(4)]

    def write(sweep_id: int, step: int) -> None:
        for number in range(15)[::step]:  # half of them in the opposite order
            store.trials.commit(scene.trial(sweep_id, number))
            store.trials.count(sweep_id)

    raised = _together(*(lambda s=s, i=i: write(s, 1 if i % 2 else -1) for i, s in enumerate(sweeps)))
    assert raised == []
    assert [store.trials.count(sweep_id) for sweep_id in sweeps] == [{"PASSED": 15}] * 4
    assert _rows(store) == {"variant": 15, "build": 15, "trial": 60, "measurement": 30, "trial_measurement": 120}


def test_one_of_several_processes_gets_the_sweep(shared_url: str, scene: Any, spawn: Callable[..., Any]) -> None:
    with Store.open(shared_url) as store:
        sweep_id = scene(store).sweep()
        processes = [spawn("claim", shared_url, sweep_id, number) for number in range(3)]
        assert [_line(process) for process in processes] == ["ready"] * 3
        for process in processes:
            _tell(process)
        answers = [_line(process) for process in processes]
        assert sorted(answers) == ["busy", "busy", "mine"]
        assert store.sweeps.get(sweep_id).owner == f"process {answers.index('mine')}"
        with pytest.raises(SweepBusy, match="is running, held by process"):
            store.sweeps.claim(sweep_id, "late", 3600.0)


def test_threads_race_for_a_sweep(shared_url: str, scene: Any) -> None:
    with Store.open(shared_url) as store:
        sweep_id = scene(store).sweep()
        rivals = [Store.open(shared_url) for _ in range(6)]
        raised = _together(
            *(lambda r=r, i=i: r.sweeps.claim(sweep_id, f"owner {i}", 3600.0) for i, r in enumerate(rivals))
        )
        assert [type(error) for error in raised] == [SweepBusy] * 5
        for rival in rivals:
            rival.close()


def test_a_silent_sweep_is_taken_over_and_its_old_owner_can_write_no_more(shared_url: str, scene: Any) -> None:
    with Store.open(shared_url) as old, Store.open(shared_url) as new:
        scene = scene(old)
        sweep_id = scene.sweep(owner="old")
        old.trials.commit(scene.trial(sweep_id, 0))
        with pytest.raises(SweepBusy):
            new.sweeps.claim(sweep_id, "new", 3600.0)
        with old.database.engine.begin() as connection:
            connection.execute(text("UPDATE sweep SET heartbeat_at = heartbeat_at - 7200"))
        new.sweeps.claim(sweep_id, "new", 3600.0)
        for write in (
            lambda: old.trials.commit(scene.trial(sweep_id, 1)),
            lambda: old.sweeps.heartbeat(sweep_id),
            lambda: old.winners.commit_comparison(sweep_id, [scene.measurement(config_hash="hash0")]),
            lambda: old.winners.set(sweep_id, [scene.winner(0)]),
            lambda: old.sweeps.finish(sweep_id, "DONE", {}),
        ):
            with pytest.raises(SweepBusy, match=f"sweep {sweep_id} has been taken over by new; nothing was written"):
                write()
        assert [t.number for t in new.trials.of(sweep_id)] == [0]
        assert new.winners.finalists(sweep_id) == []
        assert new.sweeps.get(sweep_id).state == "RUNNING"


def test_a_clock_that_jumped_back_does_not_block_a_sweep_for_ever(shared_url: str, scene: Any) -> None:
    with Store.open(shared_url) as store:
        sweep_id = scene(store).sweep(owner="dead")
        with store.database.engine.begin() as connection:
            connection.execute(text("UPDATE sweep SET heartbeat_at = heartbeat_at + 7200"))
        store.sweeps.claim(sweep_id, "new", 3600.0)


def test_a_commit_is_also_a_heartbeat(shared_url: str, scene: Any) -> None:
    with Store.open(shared_url) as store:
        scene = scene(store)
        sweep_id = scene.sweep(owner="me")
        with store.database.engine.begin() as connection:
            connection.execute(text("UPDATE sweep SET heartbeat_at = 1"))
        store.trials.commit(scene.trial(sweep_id, 0))
        heartbeat_at = store.sweeps.get(sweep_id).heartbeat_at
        assert heartbeat_at is not None
        assert heartbeat_at > 1e9


@pytest.mark.parametrize("statement", [4, 8])
def test_a_process_killed_in_a_transaction_leaves_nothing_of_it(
    shared_url: str, scene: Any, spawn: Callable[..., Any], statement: int
) -> None:
    with Store.open(shared_url) as store:
        scene = scene(store)
        sweep_id = scene.sweep()
        store.trials.commit(scene.trial(sweep_id, 0))
        before = _rows(store)
        process = spawn("stop_at", shared_url, sweep_id, statement)
        assert _line(process) == "stopped"
        process.kill()
        process.wait()
        assert _rows(store) == before
        store.trials.commit(scene.trial(sweep_id, 1))
        assert [len(t.measurements) for t in store.trials.of(sweep_id)] == [2, 2]


@pytest.mark.postgres
@pytest.mark.parametrize("statement", [1, 3, 5, 8, 11])  # look-ups up to 4, then the transaction
def test_a_dropped_connection_costs_no_trial(postgres_url: str, scene: Any, statement: int) -> None:
    with Store.open(postgres_url) as store, Store.open(postgres_url) as other:
        scene = scene(store)
        sweep_id = scene.sweep(owner="me")
        trial = scene.trial(sweep_id, 0)
        seen = []

        @event.listens_for(store.database.engine, "after_cursor_execute")
        def _drop(connection: Any, *_arguments: Any) -> None:
            seen.append(connection)
            if len(seen) == statement:
                _drop_connection(connection, other)

        store.trials.commit(trial)
        assert len(seen) > statement
        assert _rows(store) == {"variant": 1, "build": 1, "trial": 1, "measurement": 2, "trial_measurement": 2}


@pytest.mark.postgres
def test_a_commit_whose_answer_was_lost_is_not_repeated(
    postgres_url: str, scene: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    with Store.open(postgres_url) as store:
        scene = scene(store)
        sweep_id = scene.sweep(owner="me")
        store.measurements.rows(scene.definition_id, scene.trial(sweep_id, 0).measurements)
        commit = store.database.engine.dialect.do_commit
        lost = []

        def commit_and_lose_the_answer(connection: Any) -> None:
            commit(connection)
            if not lost:
                lost.append(True)
                raise psycopg.OperationalError("server closed the connection unexpectedly")

        monkeypatch.setattr(store.database.engine.dialect, "do_commit", commit_and_lose_the_answer)
        store.trials.commit(scene.trial(sweep_id, 0))
        assert lost
        assert store.trials.count(sweep_id) == {"PASSED": 1}
        lost.clear()
        store.sweeps.finish(sweep_id, "DONE", {})
        assert lost
        assert store.sweeps.get(sweep_id).state == "DONE"


@pytest.mark.postgres
def test_a_server_that_stays_away_is_an_error_in_the_end(postgres_url: str, scene: Any) -> None:
    with Store.open(postgres_url, patience_s=0.0) as store, Store.open(postgres_url) as other:
        sweep_id = scene(store).sweep()

        @event.listens_for(store.database.engine, "after_cursor_execute")
        def _drop(connection: Any, *_arguments: Any) -> None:
            _drop_connection(connection, other)

        with pytest.raises(StoreError, match=r"^database test_\d+ on [^ ]+ "):
            store.sweeps.heartbeat(sweep_id)
