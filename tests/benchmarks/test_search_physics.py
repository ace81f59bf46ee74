"""The published figures of the MoE model and its searches, and the recordings beside them."""

import json
from pathlib import Path

import pytest

from benchmarks import search_physics
from benchmarks.search_physics.page import page
from benchmarks.search_replay.recording import read_recording

RESULTS = Path(__file__).parents[2] / "docs" / "results"
RECORDINGS = sorted(Path(search_physics.__file__).with_name("recordings").glob("*.replay.json.gz"))


def test_the_page_is_made_of_the_published_figures():
    """A figure that was changed in one of them only would show here."""
    document = json.loads((RESULTS / "search-physics.json").read_text())
    assert (RESULTS / "search-physics.md").read_text() == page(document)


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name.partition(".")[0])
def test_recordings_of_the_moe_space_are_complete(path):
    recording = read_recording(path)
    assert recording.gpu == "NVIDIA H200"
    assert recording.name == path.name.partition(".")[0], "the benchmark tells runs apart by it"
    ended = [i for i, status in enumerate(recording.status) if status == "ok"]
    assert len(ended) >= 40
    assert all(recording.workload_ms[w][i] for w in recording.workloads for i in ended)


def test_there_are_recordings():
    assert len(RECORDINGS) == 10
