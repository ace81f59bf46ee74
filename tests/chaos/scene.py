"""A sweep in a process of its own on a cluster of several nodes, for tests that take nodes away."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from db.store import Store
from search_spaces.directory import DirectoryFamily
from tests.chaos import ground
from tests.chaos.invariants import Expected, violations
from workers.fib.dataset import Dataset

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 300.0
STORE_BYTES = 80 << 20
CONFIGS = 16


class Scene:
    """A cluster whose head builds and on whose other nodes, which are added, the sweep evaluates.

    Args:
        folder: Empty.
        head: More for Ray about the head.
    """

    def __init__(self, folder: Path, **head: Any) -> None:
        from ray.cluster_utils import Cluster

        self.folder = folder
        self.ground = ground.lay(folder / "ground", tens=1, works=4, ones=4, build_s=0.3)
        settings = {
            "dataset": str(self.ground.dataset),
            "definition": ground.DEFINITION,
            "space": str(self.ground.space),
            "regimes": [],
            "max_trials": 1000,
            "sampler": "random",
            "race_factor": 100.0,
            "final_rounds": 12,
            "final_s": 1.0,
            "max_samples": 6,
            "builders": 1,
        }
        (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
        self.url = f"sqlite:///{folder}/results.db"
        own = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
        self.cluster = Cluster(initialize_head=True, head_node_args=own | head)
        self.node: Any = None
        """The one that is taken away."""

    def add_node(self) -> Any:
        """One that holds an evaluator."""
        return self.cluster.add_node(num_cpus=1, resources={"tuner_evaluator": 1}, object_store_memory=STORE_BYTES)

    def start(self, *more: str) -> subprocess.Popen[str]:
        """The product's own command."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("TUNER_", "FIB_", "RAY_ADDRESS"))}
        own = {"TUNER_DB_URL": self.url, "TUNER_CACHE_DIR": f"{self.folder}/cache", "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            [sys.executable, "-m", "tuner", "sweep", *more, "--no-export"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**clean, **own},
        )

    def sweep(self) -> subprocess.Popen[str]:
        """On the cluster."""
        return self.start("--config", f"{self.folder}/settings.yaml", "--ray-address", self.cluster.address)

    def trials(self) -> int:
        """Committed so far."""
        if not Path(self.url.removeprefix("sqlite:///")).exists():
            return 0
        with Store.open(self.url) as store:
            return sum(store.trials.count(1).values()) if store.sweeps.newest() else 0

    def wait_for_trials(self, count: int, process: subprocess.Popen[str]) -> None:
        """Until as many are committed; the sweep must not have ended."""
        wait_until(lambda: self.trials() >= count or process.poll() is not None, f"{count} trials")
        assert process.poll() is None, process.communicate()[0][-3000:]

    def check(self) -> None:
        """Everything that must hold; no trial may have been spoilt."""
        space = DirectoryFamily(self.ground.space).space(
            Dataset(self.ground.dataset).definition(ground.DEFINITION), "cpu"
        )
        expected = Expected(tuple(space.enumerate()), space.default, ("0+",))
        assert len(expected.configs) == CONFIGS
        with Store.open(self.url) as store:
            assert violations(store, 1, expected) == []


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and output of a sweep that has to end."""
    out, _ = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Until something holds, with an error after :data:`PATIENCE_S`."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"no {what} after {PATIENCE_S:g} s"
        time.sleep(0.05)
