"""Sweeps on a cluster of several raylets that loses nodes: real raylets, real workers, one machine."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from db.store import Store
from search_spaces.directory import DirectoryFamily
from tests.chaos import ground
from tests.chaos.invariants import Expected, violations
from workers.dataset import Dataset

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 300.0
STORE_BYTES = 80 << 20
CONFIGS = 16


class Scene:
    """A cluster whose head builds and whose other node evaluates, and a sweep on it in a process of its own."""

    def __init__(self, folder: Path) -> None:
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
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE_BYTES})
        self.node = self.add_node()

    def add_node(self):
        return self.cluster.add_node(num_cpus=1, resources={"tuner_evaluator": 1}, object_store_memory=STORE_BYTES)

    def start(self, *more: str) -> subprocess.Popen:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("TUNER_", "FIB_", "RAY_ADDRESS"))}
        own = {"TUNER_DB_URL": self.url, "TUNER_CACHE_DIR": f"{self.folder}/cache", "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            [sys.executable, "-m", "tuner", "sweep", *more, "--no-export"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**clean, **own},
        )

    def sweep(self) -> subprocess.Popen:
        return self.start("--config", f"{self.folder}/settings.yaml", "--ray-address", self.cluster.address)

    def trials(self) -> int:
        if not Path(self.url.removeprefix("sqlite:///")).exists():
            return 0
        with Store.open(self.url) as store:
            return sum(store.trial_count(1).values()) if store.list_sweeps() else 0

    def wait_for_trials(self, count: int, process: subprocess.Popen) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while self.trials() < count:
            assert process.poll() is None, process.communicate()[0][-3000:]
            assert time.monotonic() < deadline, f"{self.trials()} trials after {PATIENCE_S:g} s"
            time.sleep(0.05)

    def check(self, spoilt: frozenset[str] = frozenset()) -> None:
        space = DirectoryFamily(self.ground.space).space(
            Dataset(self.ground.dataset).definition(ground.DEFINITION), "cpu"
        )
        expected = Expected(tuple(space.enumerate()), space.default, ("0+",), spoilt=spoilt)
        assert len(expected.configs) == CONFIGS
        with Store.open(self.url) as store:
            assert violations(store, 1, expected) == []


@pytest.fixture(name="scene")
def _scene(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_worker_niceness", "0")  # on a busy machine the workers would starve
    found = Scene(tmp_path)
    yield found
    found.cluster.shutdown()


def finish(process: subprocess.Popen) -> tuple[int, str]:
    out, _ = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out


def test_a_node_that_is_lost_and_comes_back_costs_no_trial(scene):
    """kill -9 of the raylet of the only node that evaluates; another node takes its place seconds later."""
    process = scene.sweep()
    scene.wait_for_trials(3, process)
    scene.cluster.remove_node(scene.node, allow_graceful=False)
    before = scene.trials()
    time.sleep(3)
    assert process.poll() is None, process.communicate()[0][-3000:]
    scene.add_node()
    code, out = finish(process)
    assert code == 0, out[-3000:]
    assert before < CONFIGS
    scene.check()


def test_a_cluster_that_is_gone_ends_the_sweep_and_another_one_goes_on(scene):
    """kill -9 of the head: the sweep process may not hang, and what it has committed is taken on elsewhere."""
    process = scene.sweep()
    scene.wait_for_trials(3, process)
    for node in (scene.cluster.head_node, scene.node):
        node.kill_all_processes(allow_graceful=False, check_alive=False)
    code, out = finish(process)
    assert code != 0, out[-3000:]
    before = scene.trials()
    with Store.open(scene.url) as store, store._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE sweep SET heartbeat_at = heartbeat_at - 3600 WHERE owner IS NOT NULL")
    code, out = finish(scene.start("--resume", "1"))
    assert code == 0, out[-3000:]
    assert 3 <= before < CONFIGS
    scene.check()


NEVER_BACK = """
import sys, time
from ray.cluster_utils import Cluster
from workers.dataset import Dataset
from workers.errors import ClusterError
from workers.ray_runner import RayRunner
from workers.records import EvaluationJob, Method, Variant

root, cache = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 80 << 20})
node = cluster.add_node(num_cpus=1, resources={"tuner_evaluator": 1}, object_store_memory=80 << 20)
problem = Dataset(root).problem("scale_add_d64")
source = "import torch\\n\\n\\ndef run(x, y, out):\\n    torch.add(y, x, alpha=2, out=out)\\n"
variant = Variant("v", problem.name, {"main.py": source}, "main.py::run", "python", "cpu")
runner = RayRunner(problem, "cpu", ray_address=cluster.address, cache_dir=cache)
runner.patience_s = 2.0
runner.submit_build(variant)
(build,) = runner.wait(120)
cluster.remove_node(node, allow_graceful=False)
job = EvaluationJob(variant, build.artifact, (problem.workloads[0]["uuid"],), Method(budget_s=0.1))
give_up_at = time.monotonic() + 200
try:
    while time.monotonic() < give_up_at:  # the first may end before the worker has noticed that its node is gone
        runner.submit_evaluation(job)
        runner.wait(200)
except ClusterError as error:
    print(error)
runner.close()
cluster.shutdown()
"""


def test_a_node_that_never_comes_back_ends_the_wait(tmp_path):
    place = ground.lay(tmp_path / "ground", tens=1)
    done = subprocess.run(
        [sys.executable, "-c", NEVER_BACK, str(place.dataset), str(tmp_path / "cache")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_worker_niceness": "0"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert "the cluster has had no place for any evaluator for 2 s" in done.stdout, done.stdout + done.stderr[-3000:]
