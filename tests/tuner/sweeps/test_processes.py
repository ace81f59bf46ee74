"""Real sweeps in real processes: interrupted, killed, their workers killed; resumed, exported, looked up."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from db.store import Store
from tests.tuner import toy

pytestmark = pytest.mark.ray

SPACE = """\
op_type: gemm
targets: [cpu]
entry_point: main.py::run
destination_passing: false
parameters:
  repeats: {values: [1, 2, 3, 4], doc: how often the product is computed}
  chunks: {values: [1, 2, 4], doc: column blocks of the product}
default: {repeats: 4, chunks: 4}
"""
MAIN = """\
import torch

from .config import select


def run(A, B):
    config = select()
    for _ in range(config["repeats"]):
        blocks = [A.float() @ b.float().T for b in B.chunk(config["chunks"], dim=0)]
    return torch.cat(blocks, dim=1).to(A.dtype)
"""
ALL = 12
FEW_WORKLOADS = ("--workload", "dd7b1d9c", "--workload", "c46bf4f1")
"""Of the packaged gemm definition: 64 rows and 301, so that a product that is computed once is clearly the fastest."""
PATIENCE_S = 240.0
RAY_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")


@pytest.fixture(name="space")
def _space(tmp_path):
    folder = tmp_path / "space"
    folder.mkdir()
    (folder / "space.yaml").write_text(SPACE)
    (folder / "main.py").write_text(MAIN)
    return folder


class Command:
    """``tuner ...`` in a process of its own, on the packaged gemm definition's smallest workloads."""

    def __init__(self, folder: Path, *arguments: str, cwd: Path | None = None, **variables: str) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("TUNER_", "FIB_", "RAY_"))}
        self.database = f"sqlite:///{folder}/results.db"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tuner", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd or folder,
            env={**clean, "TUNER_DB_URL": self.database, "TUNER_CACHE_DIR": f"{folder}/cache", **variables},
        )

    def finish(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, out, err

    def wait_for_trials(self, count: int) -> None:
        """Until that many trials are committed."""
        deadline = time.monotonic() + PATIENCE_S
        path = Path(self.database.removeprefix("sqlite:///"))
        while time.monotonic() < deadline and self.process.poll() is None:
            if path.exists():
                with Store.open(self.database) as store:
                    if store.sweeps.newest() and sum(store.trials.count(1).values()) >= count:
                        return
            time.sleep(0.1)
        self.process.kill()
        pytest.fail(f"no {count} trials within {PATIENCE_S:g} s, or an early end: {self.finish()}")

    def descendants(self) -> list[psutil.Process]:
        """All but Ray's own agents: those look for their control service for about a minute before they end too."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        return [p for p in below if not " ".join(p.cmdline()).startswith(RAY_AGENTS)]


def sweep(folder: Path, space: Path, *more: str, **how: Any) -> Command:
    quick = ("--config", toy.quick_settings(folder, 96, 3.0), "--regimes", "1000000", "--max-trials", str(ALL))
    return Command(folder, "sweep", "--space", str(space), *FEW_WORKLOADS, *quick, *more, **how)


def trials(folder: Path) -> list:
    with Store.open(f"sqlite:///{folder}/results.db") as store:
        return store.trials.of(1)


def state(folder: Path) -> str:
    with Store.open(f"sqlite:///{folder}/results.db") as store:
        return store.sweeps.get(1).state


def gone(processes: list[psutil.Process]) -> bool:
    """Whether all have ended; they may take a moment to notice."""
    _, alive = psutil.wait_procs(processes, timeout=90)
    return not [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def check_winner(document) -> None:
    """A config that computes the product once; or the default, where other load hides which one is faster."""
    assert document["winners"][0]["config"]["repeats"] in (1, document["default_config"]["repeats"])


HOSTILE = ("workers", "db", "search_spaces", "random", "json", "socket", "logging", "numpy", "torch", "profile", "ray")
ASCII_ONLY = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture(name="places")
def _places(tmp_path, space):
    """Two working folders. In the first, which holds the space, lie files called like our modules, Python's and
    others'; the kernel has a comment that ASCII cannot hold."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    space.rename(here / "k")
    (here / "k" / "main.py").write_bytes(f"# \u6838\u5fc3 \u2264\n{MAIN}".encode())
    for name in HOSTILE:
        (here / f"{name}.py").write_text(f"raise RuntimeError('the wrong {name}')\n")
    return here, there


def test_ctrl_c_and_then_kill_9_of_the_sweep_lose_nothing_and_leave_no_process_wherever_it_goes_on(tmp_path, places):
    """The sweep goes on in another working folder and in its own again, and paths are relative to it. Export and bench
    are right in any locale."""
    here, there = places
    running = sweep(tmp_path, Path("k"), "--no-export", cwd=here, **ASCII_ONLY)
    running.wait_for_trials(2)
    below = running.descendants()
    running.process.send_signal(signal.SIGINT)
    code, _, err = running.finish()
    assert code == 130
    assert "--resume 1" in err
    assert "Traceback" not in err
    assert state(tmp_path) == "INTERRUPTED"
    assert gone(below)
    first = trials(tmp_path)

    again = ("sweep", "--resume", "1")
    running = Command(tmp_path, *again, "--no-export", cwd=there, **ASCII_ONLY)
    running.wait_for_trials(len(first) + 1)
    below = running.descendants()
    running.process.kill()
    running.process.wait()
    assert gone(below)
    before = trials(tmp_path)
    assert len(before) > len(first)
    assert before[: len(first)] == first
    with Store.open(running.database) as store:  # what 30 s without a heartbeat would do
        sweep_id = 1
        owner = store.sweeps.get(sweep_id).owner
        store.sweeps.claim(sweep_id, owner, 0)
        store.sweeps.finish(sweep_id, "INTERRUPTED", {})

    code, out, err = Command(tmp_path, *again, "--out", "out", "--json", cwd=here, **ASCII_ONLY).finish()
    assert code == 0, err
    after = trials(tmp_path)
    assert after[: len(before)] == before
    assert [t.number for t in after] == sorted({t.number for t in after})
    assert len({t.config_hash for t in after}) == len(after) == ALL
    assert {t.state for t in after} <= {"PASSED", "RACED_OUT"}
    assert state(tmp_path) == "DONE"
    check_winner(json.loads(out))
    (solution,) = (here / "out").rglob("solutions/**/*.json")
    assert "\u6838" in json.loads(solution.read_text(encoding="utf-8"))["sources"][1]["content"]

    words = ("bench", "best", str(solution), "--rounds", "6", "--json")
    code, out, err = Command(tmp_path, *words, cwd=there, **ASCII_ONLY).finish()
    assert code == 0, err
    assert set(json.loads(out)["solutions"]) == {"best", solution.stem}


def test_kill_9_of_workers_costs_no_trial(tmp_path, space):
    running = sweep(tmp_path, space, "--json")
    for count in (2, 5):
        running.wait_for_trials(count)
        actors = [
            p
            for p in running.descendants()
            if p.cmdline() and p.cmdline()[0].startswith(("ray::Builder", "ray::Evaluator"))
        ]
        assert actors, "no Ray worker to kill"
        for actor in actors:
            actor.kill()
    code, out, err = running.finish()
    assert code == 0, err
    assert len(trials(tmp_path)) == ALL
    assert {t.state for t in trials(tmp_path)} <= {"PASSED", "RACED_OUT"}
    document = json.loads(out)
    check_winner(document)
    check_delivery(tmp_path, document)


def check_delivery(tmp_path: Path, document: dict) -> None:
    """The rest of the path: the Solution in stock flashinfer-bench, the lookup, the report."""
    from flashinfer_bench.compile import BuilderRegistry
    from flashinfer_bench.data import EvaluationStatus, TraceSet

    name, definition = document["export"]["name"], document["definition"]
    traces = TraceSet.from_path(str(tmp_path / "tuner-out"))
    solution = traces.get_solution(name)
    assert callable(BuilderRegistry.get_instance().build(traces.definitions[definition], solution))
    own = [t for t in traces.traces[definition] if t.solution == name]
    assert len(own) == len(traces.workloads[definition])
    assert all(t.evaluation.status is EvaluationStatus.PASSED for t in own)
    assert all(t.evaluation.performance.reference_latency_ms > 0 for t in own)

    axes = ",".join(f"{k}={v}" for k, v in traces.workloads[definition][0].workload.axes.items())
    code, out, err = Command(tmp_path, "best", "--definition", definition, "--axes", axes, "--json").finish()
    assert code == 0, err
    assert json.loads(out)["config"] == document["winners"][0]["config"]
    code, out, err = Command(tmp_path, "report", "--out", "report.html", "--json").finish()
    assert code == 0, err
    assert definition in (tmp_path / "report.html").read_text()
    code, out, err = Command(tmp_path, "status", "1", "--json").finish()
    assert json.loads(out)["trials_by_state"].get("PASSED", 0) >= 1
