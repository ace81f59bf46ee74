"""What a recorded sweep says of itself: trials by the second, builds, the time of its search."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from benchmarks.search_physics.live import again, alone, live
from workers.build.builder import CPU_S

SUMMARY = {"evaluator": {"search": {"gpu_busy_share": 0.5}}}


def solution(us: float) -> dict:
    measured = {"axes": "seq_len=7", "median_us": us}
    return {"workloads": {"a": {"cuda_graph": measured}, "b": {"axes": "seq_len=57", "median_us": 2 * us}}}


def database(path: Path, summary: dict, ends: list[float], origin: str) -> Path:
    """A sweep that began at second 1,000, with a trial that ended so many seconds after that."""
    with sqlite3.connect(path) as db:
        db.execute("create table sweep (summary, started_at, finished_at, budget_s, max_trials)")
        db.execute("create table trial (started_at, finished_at, origin)")
        db.execute("create table build (id integer primary key, build_s, figures)")
        db.execute("insert into sweep values (?, 990, 1200, 150, 240)", (json.dumps(summary),))
        db.executemany("insert into trial values (1000, ?, ?)", [(1000 + end, origin) for end in ends])
        builds = [(12.0, {CPU_S: 4.0}), (3.0, {CPU_S: 1.0}), (5.0, {})]
        db.executemany("insert into build (build_s, figures) values (?, ?)", [(s, json.dumps(f)) for s, f in builds])
    db.close()
    return path


def test_progress_is_counted_in_the_database(tmp_path):
    """The counts were typed into the program, read off a terminal, and two of the four were others."""
    ratio = {"ratio": 0.5, "low": 0.4, "high": 0.8}
    both = {"solutions": {"baseline": solution(10.0), "tuned": solution(8.0)}, "ratio_to_first": {"tuned": ratio}}
    without = database(tmp_path / "a.db", SUMMARY, [20, 30, 50, 100], "search")
    beside = database(tmp_path / "b.db", {**SUMMARY, "baseline": both}, [20, 100], "warm")
    found = live(without, beside)
    first = found["without_starts"]
    assert first["trials_after_s"] == {"28": 1, "38": 2, "48": 2, "58": 3}
    assert (first["trials"], first["max_trials"], first["budget_s"], first["first_build_s"]) == (4, 240, 150, 12.0)
    assert first["build_cpu_s"] == 2.5, "of those that say it"
    assert (first["search_s"], first["sweep_s"], first["starts"], found["with_starts"]["starts"]) == (100, 210, 0, 2)
    assert [(r["tokens"], r["ratio"]) for r in found["side_by_side"]] == [(7, 1.25), (57, 1.25)]
    assert (found["rel_without_starts"], found["rel_interval"], found["rel_worst"]) == (1.0, [0.25, 1.5], 0.25)


def test_solutions_may_be_measured_beside_each_other_later(tmp_path):
    ratio = {"ratio": 0.5, "low": 0.4, "high": 0.8}
    both = {"solutions": {"one": solution(10.0), "other": solution(8.0)}, "ratio_to_first": {"other": ratio}}
    (tmp_path / "bench.json").write_text(json.dumps(both))
    sweeps = [database(tmp_path / name, SUMMARY, [20], "search") for name in ("a.db", "b.db")]
    found = live(*sweeps, tmp_path / "bench.json")
    assert (found["rel_without_starts"], found["rel_worst"]) == (1.0, 0.25)


def test_an_interrupted_sweep_says_what_its_database_has(tmp_path):
    """It has no summary, which was a KeyError."""
    found = again(database(tmp_path / "c.db", {}, [20, 30, 100], "search"))
    assert (found["trials"], found["search_s"], found["gpu_busy_search"]) == (3, 100, None)


def test_the_drivers_share_is_that_of_the_search(tmp_path):
    """Samples go on for finals and for the sweep after it: with those the share would be 0.4."""
    usage = {"gpu_busy_share": 0.5, "evaluate_s": 9.0, "idle_s": 1.0, "candidate_s": 4.0, "check_s": 1.0}
    sweep = database(tmp_path / "a.db", {"evaluator": {"search": usage}}, [2, 8], "search")
    samples = tmp_path / "gpu.csv"
    samples.write_text("time,utilisation\n990,0\n1001,100\n1004,50\n1006,30\n1020,20\n")
    found = alone(sweep, samples)
    assert found["nvml_busy_search"] == pytest.approx(0.6)
    assert found["nvml_busy_by_time"] == pytest.approx([0.75, 0.3])
    assert (found["idle_s"], found["busy_s"], found["other_s"]) == (1.0, 5.0, 4.0)
