"""The folder that Solutions go into: found unusable before it matters, completed, never mixed with something else."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.tuner import toy
from tuner.errors import UnusableEnvironmentError, UsageError
from tuner.results.trace_folder import TraceFolder
from workers.fib.dataset import Dataset

LOADS = [{"n": 8}, {"n": 300}]


def folder(path: Path, root: Path, uuids: list[str] | None = None) -> TraceFolder:
    dataset = Dataset(root)
    return TraceFolder(path, dataset, dataset.problem("a", uuids))


@pytest.fixture
def root(tmp_path) -> Path:
    return toy.dataset(tmp_path / "d", LOADS)


def listed(out: Path) -> list[str]:
    return [w["uuid"] for w in Dataset(out).workloads("a")]


@pytest.mark.parametrize("where", ["f", "f/below", "link"])
def test_what_is_no_folder_is_said_in_one_line(where, root, tmp_path):
    (tmp_path / "f").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UnusableEnvironmentError, match=r"^no Solution can be written into .*--no-export$"):
        folder(tmp_path / where, root).check()
    assert sorted(tmp_path.rglob("*")) == before


def test_what_cannot_be_made_is_said_in_one_line(root):
    with pytest.raises(UnusableEnvironmentError, match="/proc/x"):
        folder(Path("/proc/x"), root).check()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only_is_said_in_one_line(root, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(UnusableEnvironmentError, match="Permission denied"):
        folder(tmp_path / "locked" / "out", root).check()


def test_a_check_leaves_nothing_behind(root, tmp_path):
    folder(tmp_path / "new" / "out", root).check()
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    folder(tmp_path / "old", root).check()
    assert list((tmp_path / "old").iterdir()) == []


def test_workloads_are_added_to_those_that_are_listed(root, tmp_path):
    out = tmp_path / "out"
    folder(out, root, ["w1"]).complete()
    listing = out / "workloads" / "toy" / "a.jsonl"
    listing.write_text(listing.read_text().rstrip("\n"))  # as an editor leaves it
    folder(out, root).complete()
    folder(out, root).complete()
    assert listed(out) == ["w1", "w0"]
    assert Dataset(out).definition("a") == Dataset(root).definition("a")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"reference": "def run(x):\n    return x + 2\n"},
            "another definition 'a': it differs from the dataset's in reference",
        ),
        ({"const": {"m": 128}}, "differs from the dataset's in axes"),
        ({"const": {"m": 64}, "loads": [{"n": 9}, {"n": 300}]}, "another workload w0 of 'a'"),
    ],
)
def test_something_else_of_the_same_name_is_refused_and_nothing_is_touched(change, said, root, tmp_path):
    out = tmp_path / "out"
    folder(out, root).complete()
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    other = toy.dataset(tmp_path / "d2", change.pop("loads", LOADS), **change)
    for step in ("check", "complete"):
        with pytest.raises(UsageError, match=said) as refused:
            getattr(folder(out, other), step)()
        assert "\n" not in str(refused.value)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_a_definition_of_the_name_is_found_wherever_it_lies(root, tmp_path):
    """Stock flashinfer-bench reads all of definitions/, so a second one elsewhere would break it."""
    out = tmp_path / "out"
    folder(out, root).complete()
    moved = out / "definitions" / "mine" / "old.json"
    moved.parent.mkdir()
    (out / "definitions" / "toy" / "a.json").rename(moved)
    folder(out, root).complete()
    assert [p.name for p in (out / "definitions").rglob("*.json")] == ["old.json"]


def test_blobs_come_along_and_another_of_the_same_path_is_refused(root, tmp_path):
    out = tmp_path / "out"
    given = {"x": {"type": "safetensors", "path": "blob/x.safetensors", "tensor_key": "x"}}
    root = toy.dataset(tmp_path / "blobs", LOADS, inputs=given)
    blob, copied = root / "blob" / "x.safetensors", out / "blob" / "x.safetensors"
    blob.parent.mkdir()
    save_file({"x": np.zeros((8, 64), np.float32)}, blob)
    folder(out, root).complete()
    first = blob.read_bytes()
    assert copied.read_bytes() == first
    save_file({"x": np.ones((8, 64), np.float32)}, blob)
    with pytest.raises(UsageError, match=r"x\.safetensors differs from"):
        folder(out, root).check()
    assert copied.read_bytes() == first


def test_a_dataset_can_be_its_own_folder(root):
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    folder(root, root).check()
    folder(root, root).complete()
    assert {p: p.read_bytes() for p in root.rglob("*") if p.is_file()} == before


def test_another_definition_in_the_folder_stays(root, tmp_path):
    out = tmp_path / "out"
    other = json.loads((root / "definitions" / "toy" / "a.json").read_text()) | {"name": "b"}
    (out / "definitions" / "toy").mkdir(parents=True)
    (out / "definitions" / "toy" / "b.json").write_text(json.dumps(other))
    folder(out, root).complete()
    assert set(Dataset(out).definitions) == {"a", "b"}
