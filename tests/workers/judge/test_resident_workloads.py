"""Workloads made after the same listed one have their weights in memory once, and are forgotten together."""

import itertools
import json

import pytest
import torch

from search_spaces.inputs.generator import InputGenerator
from tests.tuner import toy
from workers.devices.cpu import HostDevice
from workers.fib import made_workloads
from workers.fib.dataset import LENDS, LIKE, Dataset
from workers.fib.made_inputs import filled_inputs, inputs_of
from workers.judge.references import ReferenceStore
from workers.judge.resident_workloads import Residents

SOURCE = """
import numpy as np

PROFILES = {"ones": "all alike"}
FILLS = ("x",)


def fill(name, number, definition, workload, seed):
    return {"x": np.ones([workload["axes"]["n"], 64])}
"""
WEIGHT_BYTES = 64 * 64 * 4


@pytest.fixture(name="problem")
def _problem(tmp_path):
    """Two workloads of ``y = x @ w + b``; with each a made one of its size and one of another."""
    random = {"type": "random"}
    folder = toy.dataset(
        tmp_path, [{"n": 4}, {"n": 9}], inputs={"x": random, "b": random, "w": random},
        reference="def run(x, b, w):\n    return x @ w + b\n",
    )  # fmt: skip
    path = folder / "definitions" / "toy" / "a.json"
    definition = json.loads(path.read_text())
    definition["inputs"] |= {"b": definition["inputs"]["x"], "w": {"shape": ["m", "m"], "dtype": "float32"}}
    path.write_text(json.dumps(definition))
    generator = InputGenerator("inputs.py", SOURCE)
    return made_workloads.mixed(Dataset(folder).problem("a"), {"recorded": 1.0, "ones": 1.0}, (6, 8), "n", generator)


@pytest.fixture(name="residents")
def _residents(problem, tmp_path):
    return Residents(problem, HostDevice(), ReferenceStore(tmp_path / "references", problem, "cpu"), 10 * WEIGHT_BYTES)


def weights(resident):
    return resident.inputs[2]


def test_only_random_inputs_that_no_size_changes_are_common(problem):
    assert {tuple(w[LIKE][LENDS]) for w in problem.workloads if LIKE in w} == {("w",)}


@pytest.mark.parametrize("order", list(itertools.permutations(("w1", "w1~ones", "n=8~ones"))))
def test_weights_are_in_memory_once_whoever_comes_first(problem, residents, order):
    """Every made workload with 1.4 GB of its own did not fit on a GPU."""
    held = {uuid: residents.get(uuid, may_compute=True) for uuid in order}
    assert len({weights(resident).data_ptr() for resident in held.values()}) == 1
    for uuid, resident in held.items():
        alone = inputs_of(problem, problem.workload(uuid), "cpu")
        assert all(torch.equal(a, b) for a, b in zip(alone, resident.inputs, strict=True)), uuid
        assert list(resident.inputs.axes) == list(alone.axes)


def test_one_that_has_nothing_in_common_is_itself(tmp_path):
    """It would have the inputs, and the size, of the workload that it is made after."""
    folder = toy.dataset(tmp_path, [{"n": 4}, {"n": 9}])
    problem = made_workloads.mixed(Dataset(folder).problem("a"), {"recorded": 1.0}, (6, 8), "n", None)
    residents = Residents(problem, HostDevice(), ReferenceStore(tmp_path / "references", problem, "cpu"), 1 << 30)
    for workload in problem.workloads:
        resident = residents.get(workload["uuid"], may_compute=True)
        alone = inputs_of(problem, workload, "cpu")
        assert all(torch.equal(a, b) for a, b in zip(alone, resident.inputs, strict=True)), workload["uuid"]


def test_what_is_not_fixed_is_its_own(problem, residents):
    listed, made = (residents.get(uuid, may_compute=True) for uuid in ("w1", "w1~ones"))
    assert not torch.equal(listed.inputs[1], made.inputs[1])
    other = residents.get("w0", may_compute=True)
    assert not torch.equal(weights(other), weights(listed))


def test_the_budget_counts_them_once(problem, residents):
    """Counted for each workload, they would not leave room for all eight."""
    for workload in problem.workloads:
        residents.get(workload["uuid"], may_compute=True)
    assert len(residents.held) == len(problem.workloads) == 8
    residents._budget_bytes = WEIGHT_BYTES
    residents.get("w0", may_compute=True)
    residents.drop("w0")
    residents.get("w0", may_compute=True)
    assert residents.held == ["w0"]


def test_whoever_has_damaged_tensors_is_forgotten_too(problem, residents):
    """A right candidate would be called wrong on a workload whose weights another one has written to."""
    for uuid in ("w0", "w1", "w1~ones", "n=8~ones"):
        residents.get(uuid, may_compute=True)
    weights(residents.get("w1~ones")).fill_(0.0)
    residents.drop("w1~ones")
    assert residents.held == ["w0"]
    assert weights(residents.get("w1")).any()


def test_one_kept_for_its_room_stays(problem, residents):
    for uuid in ("w1", "w1~ones"):
        residents.get(uuid, may_compute=True)
    assert residents.keep_only("w1~ones")
    assert residents.held == ["w1~ones"]


def test_filled_inputs_make_no_weights(problem):
    found = filled_inputs(problem, problem.workload("n=8~ones"), "cpu")
    assert list(found) == ["x"]
    assert found["x"].shape == (8, 64)
