"""Dataset folders: the public one loads whole, broken ones are told apart in one line."""

import json
import os
import re
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
    """Neither file is called like the definition, and they differ."""
    path = first(folder, "zero_d64.json")
    (folder / "definitions" / "again.json").write_text(path.read_text())
    document = {**json.loads(path.read_text()), "description": "another"}
    path.rename(path.with_name("moved.json")).write_text(json.dumps(document))


def half_a_workload(folder):
    path = first(folder, "scale_add_d64.jsonl")
    path.write_text(path.read_text()[:-40])


def pointer(path):
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 2400\n")


def pointer_to_a_definition(folder):
    pointer(first(folder, "zero_d64.json"))


def pointer_to_workloads(folder):
    pointer(first(folder, "scale_add_d64.jsonl"))


def no_reference(folder):
    path = first(folder, "zero_d64.json")
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "reference"}))


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


def renamed(key, value):
    def spoil(folder):
        path = first(folder, "zero_d64.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))

    spoil.__name__ = f"{key}_{value[:12]!r}"
    return spoil


def path_out_of_the_folder(folder):
    path = first(folder, "scale_add_d64.jsonl")
    line = json.loads(path.read_text().splitlines()[0])
    line["workload"]["inputs"]["x"] = {"type": "safetensors", "path": "blob/../../gone", "tensor_key": "x"}
    path.write_text(json.dumps(line))


UNFIT = {
    renamed("name", "../zero_d64"): r"the name '../zero_d64' leads out of its folder",
    renamed("name", ".."): "leads out of its folder",
    renamed("op_type", "a/../../b"): r"the op_type 'a/../../b' leads out of its folder",
    renamed("name", "z" * 300): r"has 300 bytes; at most 120 are allowed",
}

BROKEN = {
    **UNFIT,
    path_out_of_the_folder: r"jsonl:1: input 'x' is a safetensors file and has no sound path, but 'blob/../../gone'",
    line_break_in_a_name: r"zero_d64\.json: the name 'zero\\nd64' has characters that cannot be printed",
    line_break_in_a_uuid: r"jsonl:1: a workload's uuid is a text that can be printed, not 'n\\n3'",
    line_break_in_a_path: r"jsonl:1: input 'x' is a safetensors file and has no sound path, but 'blob\\ngone'",
    broken_definition: r"zero_d64\.json:3: not valid JSON: .* \(column 3\)",
    broken_workload: r"scale_add_d64\.jsonl:4: not valid JSON",
    half_a_workload: r"scale_add_d64\.jsonl:2: not valid JSON",
    pointer_to_a_definition: r"zero_d64\.json is a git-lfs pointer .* lfs pull",
    pointer_to_workloads: r"scale_add_d64\.jsonl is a git-lfs pointer .* lfs pull",
    no_reference: r"zero_d64\.json: the key 'reference' is missing",
    missing_blob: r"input 'x' needs .*blob/gone\.safetensors, which is missing",
    twice: r"jsonl:3: workload scale_add_d64-n3 was already given in .*:1",
    no_workloads: r"'scale_add_d64' has no workloads",
    list_for_object: r"zero_d64\.json:1: expected a JSON object, found list",
    same_name: r"definition 'zero_d64' is in both",
}


OF_ZERO = [
    *UNFIT, line_break_in_a_name, broken_definition, list_for_object, pointer_to_a_definition, no_reference, same_name,
]  # fmt: skip
"""Those that spoil zero_d64; the others spoil scale_add_d64."""


@pytest.mark.parametrize("damage", BROKEN, ids=lambda f: f.__name__)
def test_broken_folder(folder, damage):
    damage(folder)
    with pytest.raises(DatasetError, match=BROKEN[damage]) as caught:
        Dataset(folder).problem("zero_d64" if damage in OF_ZERO else "scale_add_d64")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [d for d in BROKEN if d is not no_workloads], ids=lambda f: f.__name__)
def test_what_is_wrong_with_one_definition_is_no_matter_for_another(folder, damage, caplog):
    damage(folder)
    dataset = Dataset(folder)
    spared = "scale_add_d64" if damage in OF_ZERO else "zero_d64"
    assert len(dataset.problem(spared).workloads) == 2
    assert all("\n" not in remark for remark in caplog.messages)


def checkpoint_folder(folder):
    for path in [*folder.rglob("scale_add_d64.json"), *folder.rglob("scale_add_d64.jsonl")]:
        hidden = path.parent / ".ipynb_checkpoints"
        hidden.mkdir()
        (hidden / f"{path.stem}-checkpoint{path.suffix}").write_text("another content")


def files_of_another_system(folder):
    for path in [*folder.rglob("*.json"), *folder.rglob("*.jsonl")]:
        (path.parent / f"._{path.name}").write_bytes(b"\x00\x05\x16\x07\x00\xff\xfe")


def copies_beside(folder):
    """What "duplicate" in a file manager leaves, each edited since."""
    for path in [*folder.rglob("scale_add_d64.json"), *folder.rglob("scale_add_d64.jsonl")]:
        for name in (f"{path.stem} copy", f"Copy of {path.stem}"):
            (path.parent / f"{name}{path.suffix}").write_text(path.read_text().replace('"toy"', f'"old_{len(name)}"'))


def byte_order_marks(folder):
    for path in [*folder.rglob("*.json"), *folder.rglob("*.jsonl")]:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def files_joined_with_their_marks(folder):
    path = first(folder, "scale_add_d64.jsonl")
    path.write_bytes(b"".join(b"\xef\xbb\xbf" + line + b"\n" for line in path.read_bytes().splitlines()))


def another_encoding(folder):
    for path in [*folder.rglob("*.json"), *folder.rglob("*.jsonl")]:
        path.write_text(path.read_text().replace("\n", "\r\n"), encoding="utf-16")


def newer_fields(folder):
    path = first(folder, "scale_add_d64.json")
    document = {**json.loads(path.read_text()), "schema": 9, "license": {"spdx": "MIT"}}
    document["axes"]["n"]["range"] = [1, 4096]
    path.write_text(json.dumps(document))
    path = first(folder, "scale_add_d64.jsonl")
    path.write_text(path.read_text().replace('"uuid"', '"source": "trace 9", "uuid"'))


@pytest.mark.parametrize(
    "stray",
    [
        checkpoint_folder,
        files_of_another_system,
        copies_beside,
        byte_order_marks,
        files_joined_with_their_marks,
        another_encoding,
        newer_fields,
    ],
    ids=lambda f: f.__name__,
)
def test_stray_files_and_foreign_encodings_change_nothing(folder, dataset, stray):
    stray(folder)
    found = Dataset(folder).problem("scale_add_d64")
    assert [w["axes"] for w in found.workloads] == [{"n": 3}, {"n": 40}]
    assert found.definition["op_type"] == "toy"
    fib.definition_model(found.definition)
    for workload in found.workloads:
        fib.workload_model(workload)


def whole_blob(path, rows):
    import torch
    from safetensors.torch import save_file

    save_file({"x": torch.rand(rows, 64)}, path)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def cut_in_the_header(path):
    path.write_bytes(path.read_bytes()[:20])


def emptied(path):
    path.write_bytes(b"")


def another_format(path):
    path.write_bytes(b"PK\x03\x04" + bytes(400))


def header_that_is_no_json(path):
    path.write_bytes((8).to_bytes(8, "little") + b"\xff" * 400)


def another_tensor(path):
    import torch
    from safetensors.torch import save_file

    save_file({"other": torch.rand(4)}, path)


def another_shape(path):
    whole_blob(path, 41)


def another_type(path):
    import torch
    from safetensors.torch import save_file

    save_file({"x": torch.rand(40, 64).double()}, path)


SPOILED = {
    another_shape: r"needs a tensor of shape \[40, 64\], and 'x' of .*x40\.safetensors has \[41, 64\]",
    another_type: r"needs a tensor of float32 \(F32\), and 'x' of .*x40\.safetensors has F64",
    pointer: "git-lfs pointer .* lfs pull",
    Path.unlink: "which is missing",
    cut: r"which is cut off: \d+ of \d+ bytes",
    cut_in_the_header: "which is cut off",
    emptied: "which is cut off",
    another_format: "cut off or not a safetensors file",
    header_that_is_no_json: "not a safetensors file",
    another_tensor: r"tensor 'x' of .*x40\.safetensors, which has other",
}


@pytest.mark.parametrize("spoil", SPOILED, ids=lambda f: f.__name__)
def test_a_workload_whose_tensors_cannot_be_had_is_left_out_by_name(folder, spoil, caplog):
    path = first(folder, "scale_add_d64.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    (folder / "blob").mkdir()
    for line in lines:
        rows = line["workload"]["axes"]["n"]
        line["workload"]["inputs"]["x"] = {
            "type": "safetensors", "path": f"blob/x{rows}.safetensors", "tensor_key": "x",
        }  # fmt: skip
        whole_blob(folder / "blob" / f"x{rows}.safetensors", rows)
    path.write_text("\n".join(map(json.dumps, lines)))
    assert Dataset(folder).problem("scale_add_d64").workloads == tuple(line["workload"] for line in lines)

    spoil(folder / "blob" / "x40.safetensors")
    dataset = Dataset(folder)
    problem = dataset.problem("scale_add_d64")
    assert [w["axes"]["n"] for w in problem.workloads] == [3]
    for remarks in (problem.left_out, caplog.messages):
        (remark,) = remarks
        assert "workload scale_add_d64-n40" in remark
        assert re.search(SPOILED[spoil], remark)
    for asked in (["scale_add_d64-n40"], ["scale_add_d64-n3", "scale_add_d64-n40"]):
        with pytest.raises(DatasetError, match=SPOILED[spoil]):
            dataset.problem("scale_add_d64", asked)


def test_an_input_of_a_kind_that_is_not_known_yet_costs_its_workload_alone(folder, caplog):
    path = first(folder, "scale_add_d64.jsonl")
    path.write_text(path.read_text().replace('"random"', '"paged"', 1))
    dataset = Dataset(folder)
    assert [w["axes"]["n"] for w in dataset.problem("scale_add_d64").workloads] == [40]
    assert "type 'paged'" in caplog.messages[0]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [({}, "it says nothing about input 'x'"),
     ({"x": {"type": "scalar"}}, "input 'x' is a scalar with the value None, which is no number"),
     ({"x": {"type": "scalar", "value": "3"}}, "input 'x' is a scalar with the value '3', which is no number")],
)  # fmt: skip
def test_an_input_that_cannot_be_made_costs_its_workload_alone(folder, inputs, said, caplog):
    path = first(folder, "scale_add_d64.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    given = lines[0]["workload"]["inputs"]
    lines[0]["workload"]["inputs"] = {n: spec for n, spec in given.items() if n != "x"} | inputs
    path.write_text("\n".join(map(json.dumps, lines)))
    assert [w["axes"]["n"] for w in Dataset(folder).problem("scale_add_d64").workloads] == [40]
    (remark,) = caplog.messages
    assert said in remark


@pytest.mark.parametrize("value", ["8", None, 8.0])
def test_a_constant_axis_without_a_whole_number_is_a_fault_of_its_definition(folder, value, caplog):
    path = first(folder, "zero_d64.json")
    document = json.loads(path.read_text())
    name = next(n for n, axis in document["axes"].items() if axis["type"] == "const")
    document["axes"][name]["value"] = value
    path.write_text(json.dumps(document))
    dataset = Dataset(folder)
    with pytest.raises(DatasetError, match=f"axis '{name}' is const and its value {value!r} no whole number"):
        dataset.problem("zero_d64")
    assert len(dataset.problem("scale_add_d64").workloads) == 2


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


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({"n": -1}, "a size of -1 for 'n'"),
        ({"n": 10**400}, "too large a size for 'n'"),
        ({}, "no size for 'n'"),
    ],
)
def test_a_workload_of_no_possible_size_is_left_out_by_name(folder, axes, said, caplog):
    """Catches an IndexError where sizes are divided into regimes, and torch's C++ frames where inputs are made."""
    path = first(folder, "scale_add_d64.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["workload"]["axes"] = axes
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    problem = Dataset(folder).problem("scale_add_d64")
    assert [w["axes"] for w in problem.workloads] == [{"n": 40}]
    assert said in caplog.text
    assert len(problem.left_out) == 1


def test_a_pipe_among_the_files_is_not_waited_for(folder, dataset):
    os.mkfifo(folder / "definitions" / "toy" / "pipe.json")
    assert Dataset(folder).definitions == dataset.definitions


def test_a_blob_whose_name_is_too_long_costs_its_workload(folder, caplog):
    path = first(folder, "scale_add_d64.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["workload"]["inputs"]["x"] = {"type": "safetensors", "path": "b" * 5000, "tensor_key": "x"}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert len(Dataset(folder).problem("scale_add_d64").workloads) == 1
    assert "File name too long" in caplog.text
