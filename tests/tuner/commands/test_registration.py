"""A sweep has a row before its workers start: whatever stops it while they do, it can be seen and gone on with."""

import re
import shlex
import signal
import threading
import time
from contextlib import contextmanager

import pytest

from db.errors import StoreError
from db.store import Store
from tests.tuner import toy
from tests.tuner.without_ray import command
from tuner.commands import sweep as run
from tuner.errors import UsageError
from tuner.interrupts import nothing_begun
from tuner.results.status import describe, overview
from tuner.settings import load
from tuner.sweeps.start import sign_of_life
from workers.errors import ClusterError
from workers.records import Environment, Prepared

IN_THE_MAIN_THREAD = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread"
)


class Workers:
    """Workers that come up as far as ``point``, where ``error`` is raised."""

    builders = evaluators = 1

    def __init__(self, point, error):
        self.point, self.error = point, error

    def reach(self, point):
        if point == self.point:
            raise self.error

    def workloads(self):
        self.reach("workloads")
        return {"w0": Prepared()}

    def environment(self):
        self.reach("environment")
        return Environment("a CPU", "cpu", fingerprint="here")

    def rates(self):
        self.reach("rates")
        return {}


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """Run a sweep whose start ends with an error: the error that came out, and what the database says of the sweep."""

    url = f"sqlite:///{tmp_path}/t.db"

    def sweep(point, error, **more):
        @contextmanager
        def workers(*_):
            with Store.open(url) as store:  # what is there after a kill
                assert [s.state for s in store.sweeps.newest()] == ["RUNNING"]
            found = Workers(point, error)
            found.reach("start")
            yield found

        monkeypatch.setattr(run, "open_runner", workers)
        if point == "proof":
            monkeypatch.setattr(run, "_prove", lambda *_: Workers(point, error).reach("proof"))
        place = {"dataset": toy.dataset(tmp_path / "d", [{"n": 8}]), "space": str(toy.kernel(tmp_path / "k"))}
        with nothing_begun(None), pytest.raises(BaseException) as came:  # noqa: PT011 - which one is the test's business
            run.run_sweep(load({**place, "target": "cpu", "db": url, **more}), out=None)
        with Store.open(url) as store:
            said = overview(store, 5)["sweeps"]
            return came.value, [describe(store, s["id"]) for s in said]

    return sweep


@pytest.mark.parametrize("point", ["start", "workloads", "environment", "rates"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(signal.SIGTERM)], ids=["Ctrl-C", "Ray's SIGTERM"])
def test_a_sweep_that_is_stopped_while_its_workers_start_is_there_and_says_how_to_go_on(stopped, point, error):
    """It had no row until its workers were up, and ``--resume 1`` found no sweep 1."""
    came, (sweep,) = stopped(point, error)
    assert (sweep["state"], sweep["resumable"], sweep["trials"]) == ("INTERRUPTED", True, 0)
    assert sweep["hardware"] == ("a CPU" if point == "rates" else "")
    assert isinstance(came, KeyboardInterrupt)
    assert str(came).startswith("sweep 1 has no trial yet; go on with: tuner sweep --resume 1 --no-export --db sqlite:")


@pytest.mark.parametrize("point", ["start", "workloads", "environment", "rates"])
def test_workers_that_do_not_start_leave_a_failed_sweep_that_says_why(stopped, point):
    came, (sweep,) = stopped(point, ClusterError("no machine"))
    assert isinstance(came, ClusterError)
    assert (sweep["state"], sweep["resumable"]) == ("FAILED", True)
    assert sweep["summary"]["error"] == "ClusterError: no machine"


@IN_THE_MAIN_THREAD
def test_a_signal_while_the_row_is_stored_starts_no_workers(stopped, monkeypatch):
    """It was heard once the workers were up, seconds or minutes later."""
    register = run.register

    def interrupted(*given):
        sweep_id = register(*given)
        signal.raise_signal(signal.SIGINT)
        return sweep_id

    monkeypatch.setattr(run, "register", interrupted)
    came, (sweep,) = stopped("start", AssertionError("workers are started"))
    assert (type(came), sweep["state"]) == (KeyboardInterrupt, "INTERRUPTED")
    assert "tuner sweep --resume 1" in str(came)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UsageError("misread")])
def test_what_is_refused_or_stopped_before_that_leaves_no_row(stopped, error):
    came, sweeps = stopped("proof", error)
    assert (came, sweeps) == (error, [])


def test_what_no_machine_here_can_run_leaves_no_row(stopped):
    came, sweeps = stopped("start", AssertionError("nothing is started"), accelerators=("H200", "B200"))
    assert (type(came), sweeps) == (UsageError, [])


@pytest.mark.parametrize(
    ("resume", "said"),
    [(None, "no sweep was begun; the same command starts anew"), (3, "sweep 3 is as it was; the same command")],
)
def test_an_interrupt_before_anything_has_begun_says_so(resume, said):
    with pytest.raises(KeyboardInterrupt, match=said), nothing_begun(resume):
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt, match=r"^go on$"), nothing_begun(resume):
        raise KeyboardInterrupt("go on")


@pytest.fixture
def claimed(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(sign_of_life, "POLL_S", 0.01)
    monkeypatch.setattr(sign_of_life, "BEAT_S", 0.0)
    with Store.open(f"sqlite:///{tmp_path}/t.db") as store:
        yield store, scene(store).sweep(owner="me", environment_id=None)


def until(true):
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_sweep_whose_workers_take_long_to_start_is_not_taken_for_lost(claimed):
    """Nobody else may take it over meanwhile. When the loop begins, or the sweep has ended, the thread is gone."""
    store, sweep = claimed
    born = store.sweeps.get(sweep).heartbeat_at
    with sign_of_life.shown_alive(store, sweep) as end:
        until(lambda: store.sweeps.get(sweep).heartbeat_at > born)
        end()
        assert "sign of life" not in [t.name for t in threading.enumerate()]


def test_a_database_that_is_away_for_a_moment_does_not_end_the_signs_of_life(claimed, monkeypatch):
    """Another process could take over a sweep whose workers still started."""
    store, sweep = claimed
    beat, away = store.sweeps.heartbeat, iter([StoreError("away")])

    def heartbeat(sweep_id):
        for error in away:
            raise error
        beat(sweep_id)

    monkeypatch.setattr(store.sweeps, "heartbeat", heartbeat)
    born = store.sweeps.get(sweep).heartbeat_at
    with sign_of_life.shown_alive(store, sweep):
        until(lambda: store.sweeps.get(sweep).heartbeat_at > born)


@IN_THE_MAIN_THREAD
def test_a_request_to_stop_reaches_a_sweep_whose_workers_start(claimed):
    """From the HTTP service, say, while it waits for the device."""
    store, sweep = claimed
    assert store.sweeps.request_stop(sweep)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), sign_of_life.shown_alive(store, sweep):
            time.sleep(30)
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_command_that_is_named_goes_on_from_any_folder(tmp_path):
    """It named neither the database nor the folder that the interrupted one was given."""
    place, other = tmp_path / "place", tmp_path / "other"
    toy.kernel(place / "k")
    toy.dataset(place / "d", [{"n": 8}])
    other.mkdir()
    given = ["--dataset", "d", "--space", "k", "--target", "cpu", "--max-trials", "2", "--out", str(place / "out")]
    given += ["--db", f"sqlite:///{place}/own.db", "--config", toy.quick_settings(place)]
    usual = {"TUNER_DB_URL": "", "HOME": str(tmp_path)}
    stopped = command(place, "--interrupt", "sweep", *given, **usual)
    assert stopped.returncode == 130, stopped.stderr
    (named,) = re.findall(r"interrupted; sweep 1 has no trial yet; go on with: tuner (.*)", stopped.stderr)
    done = command(other, *shlex.split(named), **usual)
    assert done.returncode == 0, done.stderr
    assert list((place / "out" / "solutions").rglob("*.json"))


def test_a_failure_is_told_of_a_sweep_until_it_is_gone_on_with(claimed, tmp_path):
    """One that ran again was still said to have failed."""
    store, sweep = claimed
    store.sweeps.finish(sweep, "FAILED", {"error_kind": "ClusterError", "error": "ClusterError: no machine"})
    ask = ("status", str(sweep), "--db", f"sqlite:///{tmp_path}/t.db")
    assert "error: ClusterError: no machine" in command(tmp_path, *ask).stdout
    store.sweeps.claim(sweep, "me", 30.0)
    told = command(tmp_path, *ask).stdout
    assert "state: RUNNING" in told
    assert "error" not in told
