"""The dataset of the benchmarks: fetched by git, with the routing tensors that the public repository leaves out."""

import json
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from benchmarks import public_dataset

UUID = "8cba5890-4288-448a-93b8-42c14c6b9420"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder as in the public repository: one MoE workload whose tensors are not there."""
    folder = tmp_path / "repository" / "flashinfer_trace"
    path = "blob/workloads/moe/routing.safetensors"
    inputs = {
        name: {"type": "safetensors", "path": path, "tensor_key": name} for name in ("routing_logits", "routing_bias")
    }
    workload = {"definition": "moe", "workload": {"uuid": UUID, "axes": {"seq_len": 14}, "inputs": inputs}}
    for name, text in (("definitions/moe/moe.json", "{}"), ("workloads/moe/moe.jsonl", json.dumps(workload))):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)
    return folder


def test_routing_tensors_are_made_where_workloads_name_them_and_only_once(source: Path, tmp_path: Path):
    out = tmp_path / "out"
    public_dataset.copied(source, out)
    assert public_dataset.with_routing(out) == 1
    made = out / "blob" / "workloads" / "moe" / "routing.safetensors"
    tensors = load_file(made)
    assert (tensors["routing_logits"].shape, tensors["routing_bias"].shape) == ((14, 256), (256,))
    before = made.read_bytes()
    assert public_dataset.with_routing(out) == 0
    made.unlink()
    public_dataset.with_routing(out)
    assert made.read_bytes() == before, "another run makes other tensors"


def test_only_the_trace_folder_of_a_commit_is_fetched(source: Path, tmp_path: Path):
    repository = source.parent
    (repository / "large.bin").write_text("x")

    def git(*words: str) -> None:
        who = ["-c", "user.name=t", "-c", "user.email=t@t"]
        subprocess.run(["git", "-C", str(repository), *who, *words], check=True, capture_output=True)

    git("init", "--quiet")
    git("config", "uploadpack.allowFilter", "true")
    git("add", ".")
    git("commit", "--quiet", "--message", "with the folder")
    git("rm", "--quiet", "-r", "flashinfer_trace")
    git("commit", "--quiet", "--message", "without it")
    fetched = public_dataset.fetched(tmp_path / "into", f"file://{repository}", "HEAD^")
    assert (fetched / "workloads" / "moe" / "moe.jsonl").exists()
    public_dataset.copied(fetched, tmp_path / "out")
    assert (tmp_path / "out" / "definitions" / "moe" / "moe.json").exists()


def test_a_folder_that_is_no_dataset_is_named(tmp_path: Path):
    with pytest.raises(SystemExit, match=r"empty has no folder definitions"):
        public_dataset.copied(tmp_path / "empty", tmp_path / "out")
