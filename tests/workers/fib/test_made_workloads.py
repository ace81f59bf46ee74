"""Which workloads profiles and sizes add, what each counts, and that workers make their inputs."""

import itertools
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from search_spaces.inputs.generator import InputGenerator
from search_spaces.parameters import SpaceError
from tests.tuner import toy
from tuner.errors import UsageError
from tuner.settings import load
from tuner.sweeps.setup import resolve
from workers.errors import DatasetError
from workers.fib import made_workloads
from workers.fib.dataset import Dataset
from workers.fib.made_inputs import inputs_of
from workers.fib.made_workloads import auto_sizes, weights

SOURCE = """
import numpy as np

PROFILES = {"ramp": "0, 1, 2, ...", "flat:VALUE": "all alike", "short": "of the wrong shape"}
FILLS = ("x",)


def fill(name, number, definition, workload, seed):
    shape = [workload["axes"]["n"], 64]
    if name == "flat":
        return {"x": np.full(shape, number)}
    return {"x": np.arange(shape[0] * (64 if name == "ramp" else 63)).reshape(shape[0], -1)}
"""
GENERATOR = InputGenerator("inputs.py", SOURCE)


@pytest.fixture(name="problem")
def _problem(tmp_path):
    """Two workloads of 4 and 100 rows; the rows of the second come from a file and are numbered."""
    folder = toy.dataset(tmp_path, [{"n": 4}, {"n": 100}])
    save_file({"x": torch.arange(6400.0).reshape(100, 64)}, folder / "x.safetensors")
    listing = folder / "workloads" / "toy" / "a.jsonl"
    lines = [json.loads(line) for line in listing.read_text().splitlines()]
    lines[1]["workload"]["inputs"]["x"] = {"type": "safetensors", "path": "x.safetensors", "tensor_key": "x"}
    listing.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Dataset(folder).problem("a")


def mixed(problem, sizes="listed", generator=GENERATOR, **profiles):
    names = {name.replace("_", ":"): weight for name, weight in profiles.items()}
    return made_workloads.mixed(problem, names, sizes, "n", generator)


def made(problem, uuid):
    return inputs_of(problem, problem.workload(uuid), "cpu")[0]


def test_every_profile_at_every_size(problem):
    found = mixed(problem, sizes=(4, 50), recorded=2.0, ramp=1.0)
    assert [(w["uuid"], w["axes"]["n"]) for w in found.workloads] == [
        ("w0", 4), ("w1", 100), ("w0~ramp", 4), ("w1~ramp", 100), ("n=50~ramp", 50), ("n=50~recorded", 50),
    ]  # fmt: skip
    assert found.listed == problem.workloads
    assert weights(found.workloads, {"recorded": 2.0, "ramp": 1.0})["n=50~recorded"] == 2.0


def test_workloads_of_the_dataset_stay_but_count_nothing_where_recorded_is_not_asked_for(problem):
    found = mixed(problem, ramp=3.0)
    assert weights(found.workloads, {"ramp": 3.0}) == {"w0": 0.0, "w1": 0.0, "w0~ramp": 3.0, "w1~ramp": 3.0}


def test_workers_fill_inputs_and_draw_rows_of_files(problem):
    found = mixed(problem, sizes=(50, 150), recorded=1.0, flat_7=1.0)
    assert torch.equal(made(found, "w1~flat:7"), torch.full((100, 64), 7.0))
    fewer, more = made(found, "n=50~recorded"), made(found, "n=150~recorded")
    assert (fewer.shape, more.shape) == ((50, 64), (150, 64))
    for rows in (fewer, more):
        assert torch.equal(rows, torch.arange(64.0) + rows[:, :1])  # whole rows
    assert len(fewer[:, 0].unique()) == 50
    assert torch.equal(fewer, made(found, "n=50~recorded"))


def test_content_tells_another_generator_or_size_apart(problem):
    found = mixed(problem, sizes=(50,), recorded=1.0, ramp=1.0)
    other = replace(found, generator=InputGenerator("inputs.py", SOURCE + "\n"))
    assert found.content("w0") == other.content("w0") == problem.content("w0")
    assert found.content("w0~ramp") != other.content("w0~ramp")
    assert len({found.content(w["uuid"]) for w in found.workloads}) == 6 - 1 + 1


def test_a_wrong_shape_is_named(problem):
    found = mixed(problem, short=1.0)
    with pytest.raises(DatasetError, match=r"'x' has shape \[4, 63\], needed is \[4, 64\]"):
        made(found, "w0~short")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"generator": None, "ramp": 1.0}, "no generator of inputs for a"),
        ({"warm": 1.0}, "unknown profile 'warm'"),
    ],
)
def test_what_cannot_be_mixed_is_refused_before_anything_starts(problem, changes, why):
    with pytest.raises(DatasetError, match=why):
        mixed(problem, **changes)


def test_rows_of_whole_numbers_are_not_drawn(problem):
    spec = {**problem.definition["inputs"]["x"], "dtype": "int32"}
    whole = replace(problem, definition={**problem.definition, "inputs": {"x": spec}})
    with pytest.raises(DatasetError, match="input 'x' holds whole numbers"):
        mixed(whole, sizes=(50,), recorded=1.0)


def test_sizes_between_and_around():
    found = auto_sizes([7, 16, 100])
    assert found[0] == 3
    assert found[-1] == 200
    every = sorted({7, 16, 100, *found})
    assert all(b / a <= 2.4 for a, b in itertools.pairwise(every))
    assert not set(found) & {7, 16, 100}


def test_settings_take_names_weights_and_numbers():
    assert load({"profiles": "recorded, hot:3"}).profiles == {"recorded": 1.0, "hot:3": 1.0}
    assert load({"profiles": {"hot:3": 2}}).profiles == {"hot:3": 2.0}
    assert load({"sizes": "1,2"}).sizes == (1, 2)
    for bad in ({"profiles": ""}, {"profiles": {"a": 0}}, {"sizes": "some"}, {"sizes": "1,-2"}):
        with pytest.raises(UsageError, match=next(iter(bad))):
            load(bad)


def test_a_folder_brings_its_own_generator(tmp_path):
    folder = toy.kernel(tmp_path / "mine", inputs="inputs.py")
    (folder / "inputs.py").write_text(SOURCE)
    given = {"dataset": toy.dataset(tmp_path / "data", [{"n": 4}]), "space": str(folder), "target": "cpu"}
    setup = resolve(load({**given, "profiles": "ramp"}))
    assert "inputs.py" not in setup.space().sources
    assert made(setup.problem, "w0~ramp")[0, :3].tolist() == [0, 1, 2]


def test_what_a_generator_raises_is_one_line():
    source = "PROFILES = {'a': 'b'}\nFILLS = ('x',)\ndef fill(*_):\n    raise RuntimeError('no such\\nthing')\n"
    with pytest.raises(SpaceError, match=r"^mine\.py: fill for profile 'a': RuntimeError: no such thing$"):
        InputGenerator("mine.py", source).fill("a", {}, {}, 0)
