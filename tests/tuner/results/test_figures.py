"""What the figures of a sweep tell, and that they stay small when a sweep is large."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest

from db.records import FailureCount, TrialPoint, WinnerRecord, WinnerWorkload
from tuner.results.report.figures import DOTS, best_so_far, explained, html, importance, over_sizes, samples
from tuner.results.report.page import failures
from tuner.results.roofline import Roofline
from tuner.service.pages.parallel_coordinates import LINES, TICKS, parallel_coordinates


def point(number: int, us: float | None, *, state: str = "PASSED", regime: str = "small", **config: Any) -> TrialPoint:
    """A trial of that latency."""
    return TrialPoint(number + 1, number, regime, state, None if us is None else math.log(us), config)


def test_the_parameter_that_decides_has_the_share() -> None:
    random_ = random.Random(0)
    trials = [
        point(n, (10.0, 40.0)[n % 2] * random_.uniform(0.95, 1.05), tile=(64, 128)[n % 2], stages=random_.randint(2, 5),
              own=n, fixed=1)
        for n in range(60)
    ]  # fmt: skip
    shares = explained(trials)
    assert shares["tile"] > 0.95
    assert shares["stages"] < 0.1
    assert shares["own"] == 0.0
    assert "fixed" not in shares


def test_two_parameters_share_what_they_decide_together() -> None:
    trials = [point(n, math.exp(2.0 * (n & 1) + (n >> 1 & 1)), a=n & 1, b=n >> 1 & 1) for n in range(40)]
    shares = explained(trials)
    assert shares["a"] == pytest.approx(0.8, abs=0.02)
    assert shares["b"] == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("trials", [[], [point(n, 5.0 + n, tile=n % 2) for n in range(7)],
                                    [point(n, 5.0, tile=n % 2) for n in range(20)],
                                    [point(n, None, tile=n % 2) for n in range(20)]])  # fmt: skip
def test_too_little_to_tell_gives_no_figure(trials: list[TrialPoint]) -> None:
    assert importance(trials) is None


def test_without_a_latency_there_is_nothing_to_draw() -> None:
    failed = [point(n, None, state="TIMEOUT", tile=n) for n in range(3)]
    assert (best_so_far(failed), best_so_far([]), parallel_coordinates(failed)) == (None, None, None)


def test_the_best_so_far_falls_only_with_trials_that_passed() -> None:
    trials = [point(0, 9.0), point(1, 4.0, state="RACED_OUT"), point(2, 7.0), point(3, 8.0), point(4, None)]
    figure = best_so_far(trials)
    assert figure is not None
    dots, line = figure["data"]
    assert dots["x"] == [0, 1, 2, 3]
    assert (line["x"], line["y"]) == ([0, 2, 3], pytest.approx([9e-6, 7e-6, 7e-6]))


def test_a_large_sweep_is_thinned_and_says_so() -> None:
    random_ = random.Random(1)
    trials = [point(n, random_.uniform(10, 1000), regime=("a", "b")[n % 2], tile=n) for n in range(3 * DOTS)]
    figure = best_so_far(trials)
    assert figure is not None
    dots, line, *_ = figure["data"]
    assert sum(len(t["x"]) for t in figure["data"] if t["mode"] == "markers") < 1.1 * DOTS
    assert dots["name"] == "a: trials, 1 of 3 drawn"
    assert set(line["x"][:-1]) <= set(dots["x"])
    assert min(line["y"]) == pytest.approx(min(1e-6 * math.exp(t.objective or 0) for t in trials if t.regime == "a"))


def test_an_axis_with_thousands_of_values_names_a_few() -> None:
    drawing = parallel_coordinates([point(n, 1.0 + n, tile=n, other=n % 3) for n in range(2000)])
    assert drawing is not None
    assert (len(drawing.lines), drawing.hidden) == (LINES, 2000 - LINES)
    by_name = {axis.name: [label for label, _ in axis.ticks] for axis in drawing.axes}
    assert by_name["other"] == ["0", "1", "2"]
    assert (len(by_name["tile"]), by_name["tile"][0], by_name["tile"][-1]) == (TICKS, "0", "1999")


def test_failures_are_grouped_by_what_their_last_line_says() -> None:
    trials = [point(n, None, state="COMPILE_ERROR", tile=n) for n in range(4)]
    failed = [FailureCount("COMPILE_ERROR", "at a\nno room", 1, 0), FailureCount("COMPILE_ERROR", "other", 1, 1),
              FailureCount("COMPILE_ERROR", "at b\nno room\n", 2, 2)]  # fmt: skip
    groups = failures(trials, failed)
    assert [(g["message"], g["count"], g["example"].number) for g in groups] == [("no room", 3, 0), ("other", 1, 1)]


def test_figures_are_json_and_html() -> None:
    figure = samples([("seq_len=1", (1.0, 2.0)), ("none kept", ())])
    assert figure is not None
    assert [box["name"] for box in json.loads(json.dumps(figure))["data"]] == ["seq_len=1"]
    assert "seq_len=1" in str(html(figure))
    assert html(None) is None
    assert samples([("none kept", ())]) is None


def test_the_roofline_is_a_line_that_says_where_its_rates_come_from() -> None:
    """Workloads of one size share a point, sizes without a roofline have none, and no roofline draws no line."""
    workloads = tuple(
        WinnerWorkload(name, us, us, us, 2 * us, axes={"n": size})
        for name, us, size in (("a", 10.0, 1), ("b", 40.0, 1), ("c", 90.0, 8), ("d", 95.0, 16))
    )
    winner = WinnerRecord("all", "hash", 1.0, 1.0, 1.0, workloads=workloads, size_axis="n")
    roofline = Roofline({"a": 1.0, "b": 4.0, "c": 9.0}, "somewhere", "roofline (measured rates)")
    drawn = over_sizes([winner], (), roofline)
    assert drawn is not None
    (line,) = [t for t in drawn["data"] if t["name"] == "roofline (measured rates)"]
    assert (line["x"], line["y"]) == ([1, 8], [pytest.approx(2e-6), pytest.approx(9e-6)])
    without = over_sizes([winner], (), Roofline({}, "somewhere", "roofline (data sheet)"))
    assert without is not None
    assert [t["name"] for t in without["data"]] == ["winner of all", "default"]
