"""The benchmark: its arithmetic, its command, and that it runs the true sweep loop."""

import gzip
import json
import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from benchmarks.search_replay import prepare, racing, stopping, transfer
from benchmarks.search_replay.__main__ import main
from benchmarks.search_replay.loop import replay
from benchmarks.search_replay.recording import Recording, read_recording
from benchmarks.search_replay.score import curve, figures, random_expectation, summary
from benchmarks.search_replay.transfer import compare, first, lag
from search_spaces.parameters import Parameter
from tuner.results.recording import write_recording


def make_recording(name="tiny", size=8):
    """A bowl over two sizes and a switch, with a corner that does not compile and one that does not run."""
    parameters = (
        Parameter("a", tuple(2**i for i in range(size))),
        Parameter("b", tuple(range(1, size + 1))),
        Parameter("c", (0, 1)),
    )
    points = tuple((i, j, k) for i in range(size) for j in range(size) for k in (0, 1) if (i + j) % 5)
    times, status = [], []
    for i, j, k in points:
        failure = "compile" if i == size - 1 else "runtime" if j == size - 1 else None
        times.append(None if failure else 1.0 + 0.3 * abs(i - 4) + 0.1 * abs(j - 2) + 0.5 * k)
        status.append(failure or "ok")
    return Recording(name, "bowl", "none", parameters, (), points, tuple(times), tuple(status))


@pytest.fixture
def folder(tmp_path):
    for name in ("first", "second"):
        write_recording(tmp_path / f"{name}.replay.json.gz", make_recording(name).document())
    return tmp_path


def tiny(times):
    parameter = Parameter("a", tuple(range(len(times))))
    status = tuple("ok" if t is not None else "compile" for t in times)
    return Recording("t", "k", "g", (parameter,), (), tuple((i,) for i in range(len(times))), tuple(times), status)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6])
def test_the_expectation_of_random_search_is_exact(count):
    times = [3.0, None, 1.0, 2.0, None, 2.0]
    worst = 3.0
    draws = [[times[i] for i in chosen if times[i] is not None] for chosen in combinations(range(6), count)]
    exact = np.mean([min(d, default=worst) for d in draws])
    assert random_expectation(tiny(times), count) == pytest.approx(exact / 1.0)


def test_curves_start_with_the_worst_and_keep_their_last_value():
    recording = tiny([3.0, None, 1.5, 6.0])
    assert curve(recording, [1, 0, 2], 5).tolist() == [4.0, 2.0, 1.0, 1.0, 1.0]


def test_figures_of_known_curves():
    recording = tiny([1.0, 2.0, 3.0, 4.0])
    got = figures(recording, np.array([[2.0, 1.0], [1.01, 1.0], [4.0, 1.0]]), (1, 2))
    assert got.median == (2.0, 1.0)
    assert got.near == (pytest.approx(1 / 3), 1.0)
    random = 2.5
    assert got.score == (pytest.approx((random - 7.01 / 3) / (random - 1)), 1.0)
    both = summary([got, figures(recording, np.full((3, 2), 8.0), (1, 2))])
    assert both.geomean_of_medians == (pytest.approx(4.0), pytest.approx(math.sqrt(8.0)))


def test_a_config_that_was_raced_out_is_not_found():
    recording = tiny([3.0, 1.5, 2.0, 1.0])
    assert curve(recording, [0, 3, 2], 3, [False, True, False]).tolist() == [3.0, 3.0, 2.0]


def test_the_lag_of_a_curve():
    assert lag(np.array([3.0, 2.0, 1.0, 1.0]), np.array([3.0, 3.0, 2.0, 1.0])) == 1
    assert lag(np.array([3.0, 2.0, 1.0]), np.array([1.0, 1.0, 1.0])) == 0
    assert lag(np.array([3.0, 2.0, 1.0, 1.0]), np.array([3.0, 3.0, 2.0, 1.0]), last=1) == 0


def test_curves_that_come_three_evaluations_later_are_three_behind():
    """Every run halves its distance at its own pace; warm is the same runs, three evaluations later."""
    cold = np.array([[1 + max(0.0, 3 - 0.05 * n * (1 + seed / 20)) for n in range(130)] for seed in range(40)])
    warm = np.concatenate([cold[:, :1]] * 3 + [cold[:, :-3]], axis=1)
    figures = compare(cold, warm)
    assert figures["evaluations_behind"] == 3
    assert figures["mean_evaluations_saved"] == pytest.approx([-3.0] * 6)
    assert figures["standard_error"] == pytest.approx([0.0] * 6)
    low, high = figures["evaluations_behind_90"]
    assert low <= 3 <= high
    assert compare(cold, cold)["evaluations_behind"] == 0


def test_evaluations_until_a_level():
    assert first(np.array([[2.0, 1.15, 1.0], [2.0, 2.0, 1.3]]))[:, 0].tolist() == [2.0, 4.0]


@pytest.mark.parametrize("in_flight", [1, 8])
def test_a_replay_is_a_sweep_that_looks_no_config_up_twice(folder, in_flight):
    path = folder / "first.replay.json.gz"
    run = replay(path, "random", seed=3, evaluations=60, in_flight=in_flight)
    assert len(run.rows) == len(set(run.rows)) == 60
    recording = read_recording(path)
    assert {recording.status[r] for r in run.rows} == {"ok", "compile", "runtime"}
    assert replay(path, "random", seed=3, evaluations=60, in_flight=in_flight).rows == run.rows


def test_a_replay_ends_with_its_space(folder):
    run = replay(folder / "first.replay.json.gz", "grid", seed=0, evaluations=1000)
    assert sorted(run.rows) == list(range(len(make_recording().points)))


def test_the_command_prints_a_table_and_writes_figures_and_curves(folder, capsys):
    arguments = ["--data", str(folder), "--strategies", "auto,random", "--budgets", "10,30", "--seeds", "2"]
    assert main([*arguments, "--jobs", "1", "--json", str(folder / "out.json")]) == 0
    table = capsys.readouterr().out
    assert "first" in table
    assert "geomean" in table
    document = json.loads((folder / "out.json").read_text())
    assert document["schema_version"] == 1
    auto = document["strategies"]["auto"]
    assert auto["spaces"]["second"]["median"][1] <= 1.2
    assert len(auto["median_curves"]["first"]) == 30
    page = (folder / "out.html").read_text()
    assert "plotly" in page
    assert "first" in page


def test_transfer_compares_cold_with_warm(folder, capsys):
    out = folder / "transfer.json"
    arguments = ["--data", str(folder), "--seeds", "2", "--history", "40", "--jobs", "1", "--json", str(out)]
    assert transfer.main([*arguments, "--pairs", "first:first"]) == 0
    assert "evaluations behind cold" in capsys.readouterr().out
    figures = json.loads(out.read_text())["first:first"]
    assert figures["warm"][0] == 1.0 < figures["cold"][0]  # its best config is known and tried at once
    assert transfer.main([*arguments, "--pairs", "first:third"]) == 2
    assert "first:third" in capsys.readouterr().err


def test_stopping_tells_what_was_expected_from_what_was_left(folder, capsys):
    out = folder / "stopping.json"
    arguments = ["--data", str(folder), "--spaces", "first", "--seeds", "1", "--jobs", "1", "--json", str(out)]
    assert stopping.main(arguments) == 0
    assert "first" in capsys.readouterr().out
    (run,) = json.loads(out.read_text())["runs"]
    assert run["advised"]
    assert 40 <= run["trials"] < len(make_recording().points)
    assert run["regret"] == 0.0
    assert run["expected"] < 0.005
    assert stopping.main([*arguments, "--limit", "30"]) == 0
    (cut,) = json.loads(out.read_text())["runs"]
    assert (cut["trials"], cut["advised"]) == (30, False)


def contradictory(folder):
    """Two recordings of one space; good on the one is bad on the other, but for one config."""
    first = make_recording()
    best = min((t, i) for i, t in enumerate(first.time_ms) if t is not None)[1]
    times = tuple(t if t is None or i == best else 10.0 / t for i, t in enumerate(first.time_ms))
    other = replace(first, name="other", time_ms=times)
    paths = [folder / f"{name}.replay.json.gz" for name in ("one", "other")]
    for path, recording in zip(paths, (replace(first, name="one"), other), strict=True):
        write_recording(path, recording.document())
    return paths


def test_recordings_of_one_space_join_to_workloads(folder):
    parts = contradictory(folder)
    out = folder / "both.replay.json.gz"
    assert prepare.main(["join", str(out), *map(str, parts)]) == 0
    both, one = read_recording(out), read_recording(parts[0])
    assert both.workloads == ("one", "other")
    assert both.status == one.status
    row = next(i for i, t in enumerate(both.time_ms) if t is not None)
    times = both.times_ms(row)
    assert both.time_ms[row] == pytest.approx(math.sqrt(times["one"] * times["other"]))


def test_only_recordings_of_one_space_join(folder, capsys):
    write_recording(folder / "larger.replay.json.gz", make_recording(size=9).document())
    parts = [str(folder / f"{n}.replay.json.gz") for n in ("first", "larger")]
    assert prepare.main(["join", str(folder / "out.replay.json.gz"), *parts]) == 2
    assert "same parameters" in capsys.readouterr().err


def test_a_cache_of_kernel_tuner_becomes_a_recording(tmp_path):
    entries = [
        {"a": 1, "b": 5, "f": 7, "time": 2.5},
        {"a": 2, "b": 5, "f": 7, "time": "CompilationFailedConfig"},
        {"a": 2, "b": 6, "f": 7, "time": "RuntimeFailedConfig"},
    ]
    document = {
        "device_name": "gpu",
        "kernel_name": "k",
        "tune_params": {"a": [1, 2], "b": [5, 6], "f": [7]},
        "cache": {str(i): e for i, e in enumerate(entries)},
    }
    with gzip.open(tmp_path / "c.json.gz", "wt") as file:
        json.dump(document, file)
    out = tmp_path / "c.replay.json.gz"
    assert prepare.main(["cache", str(tmp_path / "c.json.gz"), str(out)]) == 0
    recording = read_recording(out)
    assert recording.time_ms == (2.5, None, None)
    assert recording.status == ("ok", "compile", "runtime")
    assert [recording.config(i) for i in range(3)] == [{k: e[k] for k in "ab"} for e in entries]


@pytest.mark.parametrize("values", prepare.VALUES)
def test_an_anonymous_recording_is_the_same_space_under_other_names(folder, values):
    source, out = folder / "first.replay.json.gz", folder / "hidden.replay.json.gz"
    assert prepare.main(["anonymous", str(source), str(out), "--seed", "1", "--values", values]) == 0
    known, hidden = read_recording(source), read_recording(out)
    assert {p.name for p in hidden.parameters} == {"p0", "p1", "p2"}
    assert (hidden.time_ms, hidden.status) == (known.time_ms, known.status)
    assert hidden.row(hidden.space().default) == known.row(known.space().default)
    listed = [p.values for p in known.parameters]
    if values == "labels":
        assert {p.kind for p in hidden.parameters} == {"categorical"}
        assert len({tuple(p) for p in hidden.points}) == len(known.points)
    else:
        assert [p.values for p in hidden.parameters] != listed
        assert (sorted(p.values for p in hidden.parameters) == sorted(listed)) == (values == "kept")
        for row in range(len(known.points)):
            assert sorted(known.config(row).values()) == sorted(hidden.config(row).values())


def test_racing_counts_timings_and_what_it_threw_away(folder, capsys):
    parts = contradictory(folder)
    (folder / "multi").mkdir()
    joined = folder / "multi" / "both.replay.json.gz"
    prepare.main(["join", str(joined), *map(str, parts)])
    never = racing.race(joined, seed=0, trials=60, factor=racing.NEVER, marks=(30,))
    harsh = racing.race(joined, seed=0, trials=60, factor=1.01, marks=(30,))
    assert never.raced == 0
    assert never.lost == 1.0
    assert harsh.raced > 0
    assert harsh.timings < never.timings
    assert racing.main(["--data", str(folder / "multi"), "--seeds", "1", "--trials", "20", "--jobs", "1"]) == 0
    assert "never" in capsys.readouterr().out
    assert racing.main(["--data", str(folder), "--spaces", "first"]) == 2
    assert "one workload" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (["--spaces", "third"], "no recording 'third'"),
        (["--strategies", "annealing"], "unknown strategy 'annealing'"),
    ],
)
def test_bad_input_ends_in_one_line(folder, capsys, changes, why):
    assert main(["--data", str(folder), *changes]) == 2
    error = capsys.readouterr().err
    assert why in error
    assert error.count("\n") == 1


def test_a_recording_that_cannot_be_read_costs_the_others_nothing(folder, capsys):
    (folder / "broken.replay.json.gz").write_bytes(b"no gzip")
    arguments = ["--strategies", "random", "--budgets", "4", "--seeds", "1", "--jobs", "1"]
    assert main(["--data", str(folder), *arguments, "--curves", str(folder / "c.html")]) == 0
    said = capsys.readouterr()
    assert "first" in said.out
    assert "second" in said.out
    assert "left out" in said.err
    assert "broken.replay.json.gz" in said.err
    assert main(["--data", str(folder), "--spaces", "broken", *arguments]) == 2


def test_an_empty_folder_is_named(tmp_path, capsys):
    assert main(["--data", str(tmp_path)]) == 2
    assert "no *.replay.json.gz file" in capsys.readouterr().err
