"""A sweep reuses only what was made the same way; what is not reused is said, and why."""

from dataclasses import replace
from pathlib import Path

import pytest

from db.records import EarlierMeasurement, method_hash
from tuner.sweeps.reuse import other_load, usable, why_made_anew
from workers.fib.dataset import Problem
from workers.records import Environment, Method

HERE = Environment("a CPU", "cpu", versions={"torch": "2.13"}, fingerprint="now")
METHOD = Method(rules="rtol=0.01")
CONTENTS = {"w1": "c1"}


def earlier(scene, store, **changes):
    record = replace(scene(store).measurement("w1"), method=changes.pop("method", METHOD))
    return EarlierMeasurement(record, replace(HERE, **changes.pop("environment", {})), changes.pop("content", "c1"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"method": replace(METHOD, revision=0)}, [f"the method's revision was 0, is {METHOD.revision}"]),
        ({"method": replace(METHOD, rules="rtol=0.5")}, ["the rules for outputs was rtol=0.5, is rtol=0.01"]),
        ({"content": "c0"}, ["the inputs of workload w1"]),
        (
            {"environment": {"versions": {"torch": "2.13", "mylib": "files:1"}, "fingerprint": "then"}},
            ["mylib was files:1, is not set"],
        ),
        (
            {"environment": {"variables": {"OMP_NUM_THREADS": "1"}, "fingerprint": "then"}},
            ["OMP_NUM_THREADS was 1, is not set"],
        ),
        ({"environment": {"fingerprint": "then"}}, ["the environment was not told apart by libraries and variables"]),
        ({"environment": {"hardware": "another CPU", "fingerprint": "then"}}, []),
    ],
)
def test_what_differs_is_said(scene, changes, said):
    from db.store import Store

    with Store.open("sqlite://") as store:
        assert why_made_anew([earlier(scene, store, **changes)], HERE, METHOD, CONTENTS) == said


@pytest.mark.parametrize(
    ("mode", "conditions", "load"),
    [
        ("host", {}, None),
        ("host", {"other_cores": 0.4, "cores": 2}, None),
        ("host", {"other_cores": 0.9, "cores": 2}, "0.9 cores"),
        ("host", {"other_cores": 12, "cores": 64}, None),
        ("cuda_graph", {"other_cores": 60, "cores": 64}, None),
        ("eager", {"other_cores": 60, "cores": 64}, "60 cores"),
        ("cuda_graph", {"other_gpu_percent": 40.0}, "40 % of the GPU"),
    ],
)
def test_what_was_taken_beside_other_load_is_measured_again(scene, mode, conditions, load):
    from db.store import Store

    with Store.open("sqlite://") as store:
        taken = scene(store).measurement("w1")
        taken = replace(taken, conditions=conditions, method=replace(METHOD, mode=mode))
        found, again = usable([taken], ["w1"])
        assert (str(other_load(taken)) if load else other_load(taken)) == load
        assert (list(found), again) == (([], 1) if load else (["w1"], 0))
        said = why_made_anew([EarlierMeasurement(taken, HERE, "c1")], HERE, taken.method, CONTENTS)
        assert said == ([f"other processes had a load of {load}"] if load else [])


@pytest.mark.parametrize("field", ["rules", "revision"])
def test_revision_and_rules_are_part_of_the_methods_identity(field):
    assert method_hash(METHOD) != method_hash(replace(METHOD, **{field: type(getattr(METHOD, field))(-1)}))


def problem(root: Path, inputs) -> Problem:
    return Problem(str(root), {"name": "d"}, ({"uuid": "w", "axes": {"n": 8}, "inputs": inputs},))


def test_content_of_a_workload_is_its_scalars_and_the_bytes_of_its_files_not_their_names(tmp_path):
    def content(value, path):
        file = {"type": "safetensors", "path": path, "tensor_key": "x"}
        return problem(tmp_path, {"s": {"type": "scalar", "value": value}, "x": file}).content("w")

    (tmp_path / "a").write_bytes(b"12")
    (tmp_path / "b").write_bytes(b"12")
    first = content(0, "a")
    assert content(0, "b") == first
    assert content(1, "a") != first
    (tmp_path / "a").write_bytes(b"13")
    assert content(0, "a") != first
