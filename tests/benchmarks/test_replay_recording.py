"""Recordings: files that survive a round trip, spaces made from them, and files that are refused."""

import gzip
import json

import pytest

from benchmarks.search_replay.recording import read_recording
from tuner.errors import UsageError
from tuner.results.recording import write_recording

DOCUMENT = {
    "format": "search-replay-1",
    "name": "tiny",
    "kernel": "copy",
    "gpu": "none",
    "params": {"tile": [8, 16, 32], "order": ["row", "column"], "wide": [False, True]},
    "restrictions": ["tile >= 16 or not wide"],
    "configs": [[0, 0, 0], [1, 0, 1], [1, 1, 0], [2, 0, 0], [2, 1, 1]],
    "time_ms": [4.0, None, 2.0, 1.0, None],
    "status": ["ok", "compile", "ok", "ok", "runtime"],
}


def write(path, **changes):
    document = {k: v for k, v in {**DOCUMENT, **changes}.items() if v is not ...}
    path.write_bytes(gzip.compress(json.dumps(document).encode()))
    return path


def test_the_space_holds_exactly_the_recorded_configs(tmp_path):
    recording = read_recording(write(tmp_path / "tiny.replay.json.gz"))
    space = recording.space()
    assert list(space.enumerate()) == [recording.config(row) for row in range(5)]
    assert space.by_name["order"].kind == "categorical"
    assert space.violation({"tile": 8, "order": "row", "wide": True}) == "tile >= 16 or not wide"
    assert space.violation({"tile": 8, "order": "column", "wide": False}) == "the config was not recorded"
    assert recording.optimum_ms == 1.0


@pytest.mark.parametrize(("given", "read"), [(4096, (4096,)), ([64, 32], (64, 32)), (None, ()), (..., ()), (0, (0,))])
def test_a_problem_of_one_size_may_name_it_alone(tmp_path, given, read):
    assert read_recording(write(tmp_path / "tiny.replay.json.gz", problem_size=given)).problem_size == read


def test_the_recorded_default_is_the_default(tmp_path):
    recording = read_recording(write(tmp_path / "a.replay.json.gz", default=3))
    assert recording.space().default == {"tile": 32, "order": "row", "wide": False}


def test_what_is_written_is_read_back_and_bytes_do_not_depend_on_time(tmp_path):
    recording = read_recording(
        write(
            tmp_path / "a.replay.json.gz",
            workloads=["w1", "w2"],
            workload_ms={"w1": [4.0, None, 1.0, 1.0, None], "w2": [4.0, None, 4.0, 1.0, None]},
        )
    )
    write_recording(tmp_path / "b.replay.json.gz", recording.document())
    write_recording(tmp_path / "c.replay.json.gz", recording.document())
    assert read_recording(tmp_path / "b.replay.json.gz") == recording
    assert (tmp_path / "b.replay.json.gz").read_bytes() == (tmp_path / "c.replay.json.gz").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.replay.json.gz", "b.replay.json.gz", "c.replay.json.gz"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"format": "search-replay-9"}, "search-replay-9"),
        ({"params": ...}, "no key 'params'"),
        ({"time_ms": [1.0]}, "time_ms has 1 entries for 5 configs"),
        ({"time_ms": [None] * 5}, "at least one time"),
        ({"time_ms": [0.0, None, 2.0, 1.0, None]}, "positive"),
        ({"configs": [[0, 0, 0], [0, 0, 0], [1, 1, 0], [2, 0, 0], [2, 1, 1]]}, "listed twice"),
        ({"configs": [[9, 0, 0], [1, 0, 1], [1, 1, 0], [2, 0, 0], [2, 1, 1]]}, "does not fit"),
        ({"restrictions": ["__import__('os').system('true')"]}, "not allowed"),
        ({"default": 7}, "default is row 7"),
        ({"workloads": ["a"], "workload_ms": {"b": [1.0] * 5}}, "workload_ms has"),
    ],
)
def test_a_file_that_is_not_a_recording_is_refused_in_one_line(tmp_path, changes, why):
    path = write(tmp_path / "bad.replay.json.gz", **changes)
    with pytest.raises(UsageError, match="is not a recording") as caught:
        read_recording(path)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_and_a_missing_file_are_refused(tmp_path):
    path = write(tmp_path / "cut.replay.json.gz")
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UsageError, match="is not a recording"):
        read_recording(path)
    with pytest.raises(UsageError, match="no recording"):
        read_recording(tmp_path / "absent.replay.json.gz")
