"""Who may run where: placement on a real cluster of several machines, whose accelerators are only claimed."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from search_spaces.targets import target_of_accelerator
from workers.cluster.machines import alike
from workers.devices.environment import describe
from workers.errors import ClusterError

ROOT = Path(__file__).parents[3]

MIXED = """
import json
from ray.cluster_utils import Cluster

from workers.errors import ClusterError
from workers.cluster.machines import builder_options, evaluator_options, join

small = {"object_store_memory": 80 << 20}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **small})
cluster.add_node(num_cpus=3, **small)
cluster.add_node(num_cpus=4, num_gpus=2, resources={"accelerator_type:H200": 1}, **small)
cluster.add_node(num_cpus=4, num_gpus=1, resources={"accelerator_type:H100": 1}, **small)
cluster.add_node(num_cpus=4, num_gpus=1, resources={"accelerator_type:B200": 1}, **small)
joined = join(cluster.address)


def said(target, accelerator=None):
    try:
        return evaluator_options(target, joined, accelerator)
    except ClusterError as error:
        return str(error)


quiet = {n["NodeID"] for n in __import__("ray").nodes() if not n["Resources"].get("GPU")}
places = builder_options(joined, None, 32)
print(json.dumps({
    "H200": said("sm_90a", "H200"),
    "unnamed": said("sm_90a"),
    "only kind": said("sm_100a"),
    "absent": said("sm_90a", "GH200"),
    "other target": said("sm_100a", "H200"),
    "builders": [p["scheduling_strategy"].node_id in quiet for p in places],
    "asked for": len(builder_options(joined, 9, 32)),
}))
joined.close()
cluster.shutdown()
"""


@pytest.mark.ray
@pytest.mark.slow
def test_evaluators_go_to_the_named_accelerator_and_builders_to_machines_without_one():
    done = subprocess.run(
        [sys.executable, "-c", MIXED],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    place = {"num_cpus": 0, "num_gpus": 1, "resources": {"accelerator_type:H200": 0.01}}
    assert found["H200"] == [place, place]
    assert found["unnamed"] == "the Ray cluster has H100, H200 for target sm_90a; name one or more with --accelerators"
    assert [options["resources"] for options in found["only kind"]] == [{"accelerator_type:B200": 0.01}]
    assert found["absent"] == "the Ray cluster has no GH200 for target sm_90a; it has H100, H200"
    assert found["other target"] == "the Ray cluster has no H200 for target sm_100a; it has B200"
    assert found["builders"] == [True] * 5
    assert found["asked for"] == 9


def test_an_accelerator_says_its_target():
    assert [target_of_accelerator(kind) for kind in ("H100", "H200", "B200", "A100")] == [
        "sm_90a",
        "sm_90a",
        "sm_100a",
        None,
    ]


def test_evaluators_that_are_not_alike_are_refused():
    here = describe("cpu")
    assert alike([here, here]) == here
    other = replace(here, hardware="another processor", fingerprint="other")
    with pytest.raises(ClusterError, match=r"differ in hardware: .* and another processor"):
        alike([here, here, other])
