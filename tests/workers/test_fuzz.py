"""Any dataset file, any Solution JSON: read, or one line that says what is wrong with it; nothing else."""

import json
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workers.errors import DatasetError
from workers.fib.adapter import solution_model
from workers.fib.dataset import Dataset

NAME = "scale_add_d64"
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
KEYS = st.text(max_size=8) | st.sampled_from(["type", "value", "shape", "dtype", "uuid", "axes", "inputs", "workload"])
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)
SOLUTION = {
    "name": "s",
    "definition": NAME,
    "author": "a",
    "spec": {"language": "python", "target_hardware": ["cpu"], "entry_point": "main.py::run", "dependencies": []},
    "sources": [{"path": "main.py", "content": "def run(x):\n    return x\n"}],
}


def spoil(data, document):
    """A copy with something else in some place."""
    spoilt = json.loads(json.dumps(document))
    for _ in range(data.draw(st.integers(1, 2))):
        place = spoilt
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            if not isinstance(place[key], dict | list) or data.draw(st.booleans()):
                if isinstance(place, dict) and data.draw(st.booleans()):
                    del place[key]
                else:
                    place[key] = data.draw(VALUES)
                break
            place = place[key]
    return spoilt


@pytest.fixture(scope="module")
def folder(dataset, tmp_path_factory):
    found = tmp_path_factory.mktemp("fuzzed") / "dataset"
    shutil.copytree(dataset.root, found)
    for path in [*found.glob("*/toy/*")]:
        if NAME not in path.name:
            path.unlink()
    return found


def read(folder):
    """The problem, or the one line."""
    try:
        found = Dataset(folder)
        found.solutions()
        found.problem(NAME)
    except DatasetError as error:
        line = str(error)
    else:
        return
    assert "\n" not in line


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_definitions_and_workloads_with_something_put_in(folder, data):
    kind = data.draw(st.sampled_from(["definitions", "workloads", "bytes"]))
    path = next((folder / ("workloads" if kind == "bytes" else kind)).glob("toy/*"))
    sound = path.read_bytes()
    try:
        if kind == "bytes":
            path.write_bytes(data.draw(st.binary(max_size=60)))
        else:
            lines = [json.loads(line) for line in sound.decode().splitlines()]
            lines[0] = spoil(data, lines[0])
            path.write_text("\n".join(json.dumps(line) for line in lines))
        read(folder)
    finally:
        path.write_bytes(sound)


@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_solutions_with_something_put_in(data):
    try:
        solution_model(spoil(data, SOLUTION))
    except DatasetError as error:
        line = str(error)
    else:
        return
    assert "\n" not in line
