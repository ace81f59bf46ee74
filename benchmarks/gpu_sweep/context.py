"""What every stage of the campaign knows: which problem, which folders, and how it hands over its result."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from db.store import Store
from search_spaces import Config, SearchSpace
from search_spaces.registry import space_for
from workers.fib.dataset import Dataset, Problem

ROOT = Path(__file__).resolve().parents[2]
MAIN = "moe_fp8_block_scale_ds_routing_topk8_ng8_kg4_e32_h7168_i2048"


@dataclass(frozen=True)
class Context:
    """One campaign on one machine.

    Args:
        target: ``sm_90a``; ``cpu`` to rehearse.
        dataset: A flashinfer-trace folder.
        definition: Name in the dataset.
        work: Folder that all stages share.
        trials: Of a sweep.
        busy_trials: Of the random sweep whose variants are built before it.
        compared: Variants that are compared with stock flashinfer-bench.
        budget_s: Of a sweep.
        limit_s: Seconds that the stage may take; it plans with it, the driver kills it soon after.
    """

    target: str
    dataset: Path
    definition: str
    work: Path
    trials: int
    busy_trials: int
    compared: int
    budget_s: float
    limit_s: float

    @cached_property
    def problem(self) -> Problem:
        """The definition with all its workloads."""
        return Dataset(self.dataset).problem(self.definition)

    @cached_property
    def space(self) -> SearchSpace:
        """Where configs come from."""
        return space_for(self.problem.definition, self.target)

    def database(self, sweep: str) -> Path:
        """The database of one of the campaign's sweeps."""
        return self.work / f"{sweep}.db"

    def sizes(self) -> dict[str, int]:
        """Workload uuid -> size, smallest first."""
        axis = self.space.size_axis
        sizes = {w["uuid"]: int(w["axes"].get(axis, 0)) for w in self.problem.workloads}
        return dict(sorted(sizes.items(), key=lambda item: item[1]))

    def save(self, stage: str, result: dict[str, Any]) -> None:
        """Write a stage's result, whole or not at all; may be called again with more."""
        path = self.work / "results" / f"{stage}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(result, indent=1))
        os.replace(partial, path)

    def result(self, stage: str) -> dict[str, Any]:
        """What a stage left; empty if it has not run."""
        path = self.work / "results" / f"{stage}.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def tuner(self, arguments: Sequence[str], *, sweep: str, timeout_s: float, log: str) -> dict[str, Any]:
        """Run a ``tuner`` command with ``--json`` on a sweep's database; its document with ``wall_s`` and ``code``.

        The log goes to ``WORK/LOG.log``. Without a document the result holds the end of the log as ``error``.
        """
        env = {**os.environ, "TUNER_DB_URL": f"sqlite:///{self.database(sweep)}"}
        began = time.time()
        path = self.work / f"{log}.log"
        command = [sys.executable, "-m", "tuner", *arguments, "--json"]
        with path.open("w") as stderr:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=stderr, stdin=subprocess.DEVNULL, env=env
            )
            try:
                output = process.communicate(timeout=timeout_s)[0]
            except subprocess.TimeoutExpired:
                output = b""
            finally:
                kill_tree(process)
        code = process.returncode
        times = {"began": began, "ended": time.time(), "wall_s": time.time() - began, "code": code}
        try:
            document = json.loads(output)
        except ValueError:
            return {**times, "error": path.read_text()[-2000:]}
        return {**document, **times}

    def configs(self, sweep: str) -> list[Config]:
        """Configs that a sweep of the campaign measured completely, by rising objective."""
        if not self.database(sweep).exists():
            return []
        store = Store.open(f"sqlite:///{self.database(sweep)}")
        try:
            trials = store.trials.of(1, measurements=False)
        finally:
            store.close()
        passed = sorted((t for t in trials if t.state == "PASSED" and t.objective), key=lambda t: t.objective or 0.0)
        return list({t.config_hash: dict(t.config) for t in passed}.values())


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """End a stage with everything below it, Ray's daemons included."""
    with contextlib.suppress(psutil.NoSuchProcess):
        below = psutil.Process(process.pid).children(recursive=True)
        for child in [*below, psutil.Process(process.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    process.wait()
