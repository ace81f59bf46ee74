"""The benchmark: its arithmetic, its command, and that it runs the true sweep loop."""

import json
import math
from itertools import combinations

import numpy as np
import pytest

from benchmarks.search_replay.__main__ import main
from benchmarks.search_replay.loop import replay
from benchmarks.search_replay.score import curve, figures, random_expectation, summary
from benchmarks.search_replay.transfer import lag
from search_spaces.space import Parameter
from tuner.recording import Recording, read_recording, write_recording


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
        write_recording(tmp_path / f"{name}.replay.json.gz", make_recording(name))
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


def test_the_lag_of_a_curve():
    assert lag(np.array([3.0, 2.0, 1.0, 1.0]), np.array([3.0, 3.0, 2.0, 1.0])) == 1
    assert lag(np.array([3.0, 2.0, 1.0]), np.array([1.0, 1.0, 1.0])) == 0


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


def test_an_empty_folder_is_named(tmp_path, capsys):
    assert main(["--data", str(tmp_path)]) == 2
    assert "no *.replay.json.gz file" in capsys.readouterr().err
