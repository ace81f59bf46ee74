"""Dataset folders: the public one loads whole, broken ones are told apart in one line."""

import json
import shutil
from pathlib import Path

import pytest

from workers.errors import DatasetError
from workers.fib import adapter as fib
from workers.fib.dataset import Dataset

ROOT = Path(__file__).resolve().parents[3]
PUBLIC = ROOT.parent / "shared" / "flashinfer-trace"


@pytest.fixture
def folder(dataset, tmp_path):
    return Path(shutil.copytree(dataset.root, tmp_path / "copy"))


def first(folder, pattern):
    return next(folder.rglob(pattern))


def test_problem_holds_the_workloads_in_order(dataset):
    problem = dataset.problem("scale_add_d64")
    assert (problem.name, [w["axes"] for w in problem.workloads]) == ("scale_add_d64", [{"n": 3}, {"n": 40}])
    chosen = dataset.problem("scale_add_d64", ["scale_add_d64-n40"])
    assert [w["uuid"] for w in chosen.workloads] == ["scale_add_d64-n40"]


def broken_definition(folder):
    first(folder, "zero_d64.json").write_text('{\n  "name": "x",\n  oops\n}')


def broken_workload(folder):
    path = first(folder, "scale_add_d64.jsonl")
    path.write_text(path.read_text() + "\n{not json}\n")


def missing_blob(folder):
    path = first(folder, "scale_add_d64.jsonl")
    line = json.loads(path.read_text().splitlines()[0])
    line["workload"]["inputs"]["x"] = {"type": "safetensors", "path": "blob/gone.safetensors", "tensor_key": "x"}
    path.write_text(json.dumps(line))


def twice(folder):
    path = first(folder, "scale_add_d64.jsonl")
    path.write_text(path.read_text() * 2)


def no_workloads(folder):
    shutil.rmtree(folder / "workloads")


def list_for_object(folder):
    first(folder, "zero_d64.json").write_text("[1]")


def same_name(folder):
    shutil.copy(first(folder, "zero_d64.json"), folder / "definitions" / "again.json")


def line_break_in_a_name(folder):
    path = first(folder, "zero_d64.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "name": "zero\nd64"}))


def line_break_in_a_uuid(folder):
    path = first(folder, "scale_add_d64.jsonl")
    path.write_text(path.read_text().replace("scale_add_d64-n3", "n\\n3") * 2)


def line_break_in_a_path(folder):
    path = first(folder, "scale_add_d64.jsonl")
    line = json.loads(path.read_text().splitlines()[0])
    line["workload"]["inputs"]["x"] = {"type": "safetensors", "path": "blob\ngone", "tensor_key": "x"}
    path.write_text(json.dumps(line))


BROKEN = {
    line_break_in_a_name: r"zero_d64\.json: the name 'zero\\nd64' has characters that cannot be printed",
    line_break_in_a_uuid: r"jsonl:1: a workload's uuid is a text that can be printed, not 'n\\n3'",
    line_break_in_a_path: r"jsonl:1: input 'x' is a safetensors file and has no sound path, but 'blob\\ngone'",
    broken_definition: r"zero_d64\.json:3: not valid JSON: .* \(column 3\)",
    broken_workload: r"scale_add_d64\.jsonl:4: not valid JSON",
    missing_blob: r"input 'x' needs .*blob/gone\.safetensors, which is missing",
    twice: r"jsonl:3: workload scale_add_d64-n3 was already given in .*:1",
    no_workloads: r"'scale_add_d64' has no workloads",
    list_for_object: r"zero_d64\.json:1: expected a JSON object, found list",
    same_name: r"definition 'zero_d64' is in both",
}


@pytest.mark.parametrize("damage", BROKEN, ids=lambda f: f.__name__)
def test_broken_folder(folder, damage):
    damage(folder)
    with pytest.raises(DatasetError, match=BROKEN[damage]) as caught:
        Dataset(folder).problem("scale_add_d64")
    assert "\n" not in str(caught.value)


def test_missing_folders(tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        Dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="no definitions/"):
        Dataset(tmp_path)
    (tmp_path / "definitions").mkdir()
    with pytest.raises(DatasetError, match="no definition in"):
        Dataset(tmp_path)


def test_unknown_names_come_with_near_ones(dataset):
    with pytest.raises(DatasetError, match="did you mean scale_add_d64"):
        dataset.problem("scale_add_d46")
    with pytest.raises(DatasetError, match="some of the known are broken_d64, scale_add_d64, zero_d64"):
        dataset.problem("moe")
    with pytest.raises(DatasetError, match="unknown workload 'w1'"):
        dataset.problem("scale_add_d64", ["w1"])


@pytest.mark.skipif(not PUBLIC.is_dir(), reason="the public flashinfer-trace copy is not beside the checkout")
def test_public_dataset_loads_whole():
    dataset = Dataset(PUBLIC)
    assert len(dataset.definitions) == 156
    found = {name: dataset.workloads(name) for name in dataset.definitions}
    assert sum(bool(workloads) for workloads in found.values()) == 26
    for name, document in dataset.definitions.items():
        model = fib.definition_model(document)
        for workload in found[name]:
            shapes = model.get_input_shapes(fib.workload_model(workload).axes)
            assert len(shapes) == len(model.inputs)
