"""Has stock flashinfer-bench judge finished Solutions, with its own command line in its own processes.

Everything else in this package judges with flashinfer-bench's functions inside our processes. Here nothing of ours is
between the Solution and flashinfer-bench: a flashinfer-trace folder is staged, ``flashinfer-bench run`` is called as a
user would call it, and the traces are read back. It needs a CUDA device: flashinfer-bench 0.1.2 runs nowhere else.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workers.fib.dataset import Document, Problem, blob_paths
from workers.records import Tolerance

_CLI = "from flashinfer_bench.cli.main import cli; cli()"
"""Code of the console script ``flashinfer-bench``, which may not be on the PATH."""

_LOG_CHARS = 8000


@dataclass(frozen=True)
class StockEffort:
    """How long stock flashinfer-bench measures; the defaults are its own.

    It times the reference as thoroughly as the Solution, on fresh clones of all inputs: on the large MoE definition
    ``trials * (warmup + iterations)`` runs of a reference that takes 15 to 50 ms, for each workload.
    """

    warmup: int = 10
    iterations: int = 50
    trials: int = 3


VERIFY = StockEffort(warmup=3, iterations=20, trials=2)
"""For an export: all checks of stock flashinfer-bench, on two draws of inputs, and a figure, in a third of the time."""


@dataclass(frozen=True)
class StockJob:
    """Run Solutions through stock flashinfer-bench on all workloads of the evaluator's problem.

    Args:
        solutions: Documents of Solutions of the problem's definition.
        rule: Accepted errors.
        effort: How much to measure.
        timeout_s: Limit of the whole run in seconds.
    """

    solutions: tuple[Document, ...] = field(repr=False)
    rule: Tolerance
    effort: StockEffort = VERIFY
    timeout_s: float = 900.0


@dataclass(frozen=True)
class StockRun:
    """The result of ``flashinfer-bench run``. ``returncode`` is None on a timeout, ``log`` the end of its output."""

    returncode: int | None
    seconds: float
    traces: tuple[Document, ...]
    log: str

    def statuses(self, solution: str) -> dict[str, str]:
        """Workload uuid -> status of one Solution."""
        return {
            t["workload"]["uuid"]: t["evaluation"]["status"] for t in self.traces if t["solution"] == solution
        }  # fmt: skip


def stage(problem: Problem, solutions: Sequence[Document], folder: Path) -> None:
    """Write a flashinfer-trace folder with the dataset's workloads and the Solutions; blobs are links into it."""
    name, op_type = problem.name, str(problem.definition["op_type"])
    _write(folder / "definitions" / op_type / f"{name}.json", json.dumps(problem.definition))
    lines = [{"definition": name, "solution": None, "workload": w, "evaluation": None} for w in problem.listed]
    _write(folder / "workloads" / op_type / f"{name}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    for path in blob_paths(problem.listed):
        if not Path(path).is_absolute():
            link = folder / path
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():  # workloads may write one path in two ways
                link.symlink_to((Path(problem.root) / path).resolve())
    for solution in solutions:
        _write(folder / "solutions" / op_type / name / f"{solution['name']}.json", json.dumps(solution))


def command(folder: Path, definition: str, solutions: Sequence[str], rule: Tolerance, effort: StockEffort) -> list[str]:
    """The command line; ``flashinfer-bench run --local FOLDER ...`` where the console script is installed."""
    return [
        sys.executable, "-c", _CLI, "run", "--local", str(folder), "--definitions", definition,
        "--solutions", *solutions,
        "--rtol", str(rule.rtol), "--atol", str(rule.atol),
        "--required-matched-ratio", str(float(rule.required_matched_ratio)),
        "--warmup-runs", str(effort.warmup), "--iterations", str(effort.iterations), "--num-trials", str(effort.trials),
    ]  # fmt: skip


def run(folder: Path, definition: str, job: StockJob, env: Mapping[str, str] | None = None) -> StockRun:
    """Call flashinfer-bench on a staged folder and read the traces that it added.

    Its processes form a group, which is killed at the end of the run in case flashinfer-bench does not stop a Solution
    that hangs.
    """
    names = [str(s["name"]) for s in job.solutions]
    began = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command(folder, definition, names, job.rule, job.effort),
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        try:
            returncode: int | None = process.wait(job.timeout_s)
        except subprocess.TimeoutExpired:
            returncode = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        seconds = time.perf_counter() - began
        output.seek(0)
        log = output.read().decode(errors="replace")[-_LOG_CHARS:]
    return StockRun(returncode, seconds, tuple(read_traces(folder)), log)


def read_traces(folder: Path) -> list[Document]:
    """All traces of a flashinfer-trace folder that hold an evaluation."""
    found = []
    for path in sorted((folder / "traces").rglob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            document = json.loads(line)
            if document.get("evaluation"):
                found.append(document)
    return found


def verify(problem: Problem, job: StockJob) -> StockRun:
    """Stage, run and clean up."""
    with tempfile.TemporaryDirectory(prefix="tuner-stock-") as scratch:
        stage(problem, job.solutions, Path(scratch))
        return run(Path(scratch), problem.name, job, {"FIB_CACHE_PATH": str(Path(scratch) / "fib")})


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
