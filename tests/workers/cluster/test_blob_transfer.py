"""Blobs reach machines that do not have the dataset."""

from dataclasses import replace
from pathlib import Path

import pytest

from workers.cluster.actors import EvaluatorActor
from workers.cluster.blob_transfer import at_hand, pack
from workers.fib.dataset import Dataset
from workers.records import Deadlines


@pytest.fixture(scope="module")
def problem():
    from search_spaces.dataset import PATH

    dataset = Dataset(PATH)
    (name,) = [n for n, d in dataset.definitions.items() if d["op_type"] == "moe"]
    whole = dataset.problem(name)
    return replace(whole, workloads=(min(whole.workloads, key=lambda w: w["axes"]["seq_len"]),))


def test_a_machine_with_the_dataset_uses_its_own(problem, tmp_path):
    assert at_hand(problem, pack(problem), tmp_path) is problem
    assert list(tmp_path.iterdir()) == []


def test_a_machine_without_it_gets_every_blob_once(problem, tmp_path):
    files = pack(problem)
    assert files
    elsewhere = replace(problem, root="/nowhere")
    found = at_hand(elsewhere, files, tmp_path)
    assert {path: (Path(found.root) / path).read_bytes() for path in files} == files
    written = {path: (Path(found.root) / path).stat().st_ino for path in files}
    assert at_hand(elsewhere, files, tmp_path) == found
    assert {path: (Path(found.root) / path).stat().st_ino for path in files} == written


def test_a_file_that_was_cut_off_is_written_again(problem, tmp_path):
    files = pack(problem)
    found = at_hand(replace(problem, root="/nowhere"), files, tmp_path)
    path = Path(found.root) / next(iter(files))
    path.write_bytes(b"half")
    at_hand(replace(problem, root="/nowhere"), files, tmp_path)
    assert path.read_bytes() == next(iter(files.values()))


def test_an_evaluator_without_the_dataset_makes_its_workloads(problem, tmp_path):
    elsewhere = replace(problem, root="/nowhere")
    actor = EvaluatorActor(elsewhere, "cpu", str(tmp_path), Deadlines(), pack(problem))
    try:
        actor.warm()
    finally:
        actor.close()
