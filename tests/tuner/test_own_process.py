"""Functions in a process of their own: results and errors come back, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from tuner import own_process
from tuner.errors import UsageError
from tuner.own_process import _elsewhere, call
from tuner.settings import SweepSettings, load
from tuner.sweeps.regimes import Regime, split
from workers.errors import WorkerError


def test_a_result_comes_back_from_there():
    found = _elsewhere(split, {"sizes": {"a": 3, "b": 900}, "bounds": (16,)})
    assert found == split({"a": 3, "b": 900}, (16,))
    assert all(isinstance(r, Regime) for r in found)


def test_settings_keep_what_was_given_on_the_way():
    settings = _elsewhere(load, {"flags": {"seed": 7, "db": "sqlite://"}})
    assert isinstance(settings, SweepSettings)
    assert {"seed", "db"} <= settings.model_fields_set < set(SweepSettings.model_fields)


def test_an_error_comes_back_as_what_it_is():
    with pytest.raises(UsageError, match="unknown setting 'sed'"):
        _elsewhere(load, {"flags": {"sed": 7}})


def test_an_end_without_a_result_is_one_line():
    with pytest.raises(WorkerError, match="ended without a result, with exit code 3"):
        _elsewhere(os._exit, {"status": 3})


def test_only_a_main_thread_that_is_free_is_used():
    def here(**_):
        return os.getpid()

    assert call(here) == os.getpid()
    there = []
    thread = threading.Thread(target=lambda: there.append(call(os.getpid)))
    thread.start()
    thread.join()
    assert there != [os.getpid()]
    with own_process._turn() as first, own_process._turn() as second:
        assert (first, second) == (True, False)


def test_variables_of_ray_stay_behind(monkeypatch):
    monkeypatch.setenv("RAY_JOB_ID", "01000000")
    monkeypatch.setenv("RAY_ADDRESS", "cluster:6379")
    kept = own_process._environment()
    assert "RAY_JOB_ID" not in kept
    assert kept["RAY_ADDRESS"] == "cluster:6379"


WAITS = """\
import signal, subprocess
signal.signal(signal.SIGINT, signal.default_int_handler)  # where tests run in the background it is ignored
from tuner.own_process import _elsewhere
_elsewhere(subprocess.run, {"args": ["sleep", "600"]})
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_the_other_process_ends_with_this_one(end):
    parent = subprocess.Popen([sys.executable, "-c", WAITS], stderr=subprocess.PIPE, cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 60
    below: list[psutil.Process] = []
    while "sleep" not in [p.name() for p in below]:
        assert time.monotonic() < deadline
        below = psutil.Process(parent.pid).children(recursive=True)
        time.sleep(0.05)
    parent.send_signal(end)
    parent.communicate(timeout=60)
    _, alive = psutil.wait_procs(below, timeout=30)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []


PROGRAM = """\
import sys, threading
import ray, tuner
def go(): return tuner.sweep(space="k", target="cpu", max_trials=1, regimes=(10**6,), workloads=None).sweep_id
def task():
    import tuner
    return tuner.sweep(space="k", target="cpu", max_trials=1, regimes=(10**6,)).sweep_id
ray.init(num_cpus=1, include_dashboard=False, logging_level="error")
found = [go()]
threads = [threading.Thread(target=lambda: found.append(go())) for _ in range(2)]
for t in threads: t.start()
for t in threads: t.join()
found.append(ray.get(ray.remote(task).remote()))
print(sorted(found), ray.is_initialized())
"""


@pytest.mark.ray
@pytest.mark.slow
def test_sweeps_of_a_program_on_ray_in_threads_at_once_and_in_a_task(tmp_path):
    folder = tmp_path / "k"
    folder.mkdir()
    (folder / "space.yaml").write_text(
        "op_type: gemm\ntargets: [cpu]\nentry_point: main.py::run\ndestination_passing: false\n"
        "parameters: {repeats: {values: [1, 2]}}\ndefault: {repeats: 1}\n"
    )
    (folder / "main.py").write_text("def run(A, B):\n    return (A.float() @ B.float().T).to(A.dtype)\n")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TUNER_", "FIB_", "RAY_"))}
    places = {"TUNER_DB_URL": f"sqlite:///{tmp_path}/t.db", "TUNER_CACHE_DIR": f"{tmp_path}/cache"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=clean | places, capture_output=True, text=True, timeout=550
    )
    assert done.stdout.splitlines()[-1] == "[1, 2, 3, 4] True", done.stderr[-3000:]
