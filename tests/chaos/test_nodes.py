"""Sweeps on a cluster of several raylets that loses nodes: real raylets, real workers, one machine."""

import os
import subprocess
import sys
import time

import pytest

from db.store import Store
from tests.chaos import ground
from tests.chaos.scene import CONFIGS, PATIENCE_S, ROOT, Scene, finish

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(name="scene")
def _scene(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_worker_niceness", "0")  # on a busy machine the workers would starve
    found = Scene(tmp_path)
    found.node = found.add_node()
    yield found
    found.cluster.shutdown()


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
    with Store.open(scene.url) as store, store.database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE sweep SET heartbeat_at = heartbeat_at - 3600 WHERE owner IS NOT NULL")
    code, out = finish(scene.start("--resume", "1"))
    assert code == 0, out[-3000:]
    assert 3 <= before < CONFIGS
    scene.check()


NEVER_BACK = """
import sys, time
from ray.cluster_utils import Cluster
from workers.fib.dataset import Dataset
from workers.errors import ClusterError
from workers.cluster.ray_runner import RayRunner
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
job = EvaluationJob(variant.built(build.artifact), (problem.workloads[0]["uuid"],), Method(budget_s=0.1))
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
