"""A cluster that others use too: not all builders that a sweep asks for get a core."""

import json
import subprocess
import sys

import pytest

from workers.cluster.machines import Cluster, builder_options
from workers.errors import ClusterError

ONE_CORE_LEFT = r"""
import json, sys
import ray
from pathlib import Path
from ray.cluster_utils import Cluster

from workers.cluster.ray_runner import RayRunner
from workers.fib.dataset import Dataset
from workers.records import Variant

if __name__ == "__main__":
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "object_store_memory": 80 << 20})
    folder, cache_dir = sys.argv[1:]
    problem = Dataset(Path(folder)).problem("scale_add_d64")
    # The evaluator has one core of three.
    runner = RayRunner(problem, "cpu", ray_address=cluster.address, builders=3, cache_dir=cache_dir)
    for i in range(4):
        source = f"import torch\n\n\ndef run(x, y, out):\n    torch.add(y, x, alpha=2, out=out)  # {i}\n"
        runner.submit_build(Variant(f"v{i}", "scale_add_d64", {"main.py": source}, "main.py::run", "python", "cpu"))
    built = []
    while len(built) < 4 and (outcomes := runner.wait(60.0)):
        built += [outcome.status.name for outcome in outcomes]
    print(json.dumps(built))
    runner.close()
    cluster.shutdown()
"""


@pytest.mark.ray
def test_a_builder_that_waits_for_a_core_keeps_no_job_from_the_others(dataset, tmp_path):
    """Would catch jobs that are given to builders before these have started: one of four would wait for ever."""
    command = [sys.executable, "-c", ONE_CORE_LEFT, str(dataset.root), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stdout, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == ["BUILT"] * 4, done.stderr[-2000:]


def test_more_builders_than_cores_are_refused_with_the_number_of_cores():
    with pytest.raises(ClusterError, match=r"^3 builders are wanted; the cluster has room for 2, one on each core$"):
        builder_options(Cluster(cpus=2, gpus=0, evaluator_slots=1, nodes=1), 3, 16)
