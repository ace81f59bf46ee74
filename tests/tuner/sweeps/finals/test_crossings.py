"""Bounds between regimes stand where the winners cross, by measurement, and move on evidence alone."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from db.records import WinnerRecord, WinnerWorkload
from tests.tuner.sweeps.finals.test_final import Scripted
from tuner.sweeps.finals.crossings import Crossing, applied, find, settled
from tuner.sweeps.finals.final import ROUNDS_PER_LOOK, Finalist, run_final
from tuner.sweeps.finals.guard import Guard
from tuner.sweeps.regimes import split
from workers.records import Method, Variant

ROUNDS = 12
SIZES = (16, 64, 128, 512, 2048)


def rounds(seed, medians, noise=0.001):
    rng = np.random.default_rng(seed)
    return {f"w{n}": (us * np.exp(rng.normal(0, noise, ROUNDS))).tolist() for n, us in zip(SIZES, medians, strict=True)}


def found(lower, upper, bound, noise=0.001):
    return find(rounds(1, lower, noise), rounds(2, upper, noise), {f"w{n}": n for n in SIZES}, bound)


def test_a_bound_moves_down_to_where_the_upper_winner_becomes_faster():
    bound, curve, reason = found([10, 20, 40, 160, 640], [20, 24, 30, 80, 320], 512)
    assert 64 <= bound < 128
    assert [point.size for point in curve] == list(SIZES)
    assert reason == "the upper winner is faster at 128, 512 too"


def test_a_bound_moves_up_as_well():
    bound, _, reason = found([10, 20, 30, 100, 640], [20, 24, 40, 160, 320], 64)
    assert 512 <= bound < 2048
    assert "the lower winner is faster at 128, 512 too" in reason


def test_between_two_sizes_it_stands_where_the_lines_cross():
    bound, _, reason = found([10, 20, 20, 80, 100], [20, 40, 40, 40, 50], 128)
    assert bound == pytest.approx(256, rel=0.02)  # twice as slow on one side, as fast on the other: the middle
    assert reason == "no measured size changes hands"


def test_noise_moves_nothing():
    bound, _, _ = found([10, 20, 40, 80, 320], [10, 20, 40, 80, 320], 300, noise=0.05)
    assert 128 <= bound < 512


def test_no_size_changes_hands_to_a_winner_that_is_slower_there():
    lower, upper = [10, 20, 40, 100, 640], [20, 40, 10, 101, 320]
    bound, _, _ = found(lower, upper, 512)
    assert 512 <= bound < 2048, "the upper winner is faster on 128 and 512 together, and slower on 512"


def record(name, low, high, *sizes):
    workloads = tuple(WinnerWorkload(f"w{s}", float(s), float(s), float(s)) for s in sizes)
    return WinnerRecord(
        name, f"config of {name}", 1.0, 1.0, 1.0, workloads=workloads, size_axis="n", min_size=low, max_size=high
    )


def test_winners_serve_what_they_were_measured_on():
    winners = [record("0-512", 0, 512, 16, 128), record("513+", 513, None, 2048)]
    moved = {"w128": WinnerWorkload("w128", 5.0, 4.0, 6.0, 9.0)}
    crossing = Crossing("0-512", "513+", 512, 90, (), "", moved)
    lower, upper = applied(winners, [crossing])
    assert (lower.max_size, upper.min_size, upper.max_size) == (90, 91, None)
    assert [w.workload for w in lower.workloads] == ["w16"]
    assert [w.median_us for w in upper.workloads] == [2048.0, 5.0]


@pytest.mark.parametrize(("bound", "was"), list(itertools.product([16, 600, 2047], [64, 512])))
def test_the_bound_is_always_between_measured_sizes(bound, was):
    at = sum(size <= bound for size in SIZES)
    lower = [100] * at + [300] * (len(SIZES) - at)
    new, _, _ = found(lower, [200] * len(SIZES), was)
    assert SIZES[at - 1] <= new < SIZES[at]


class ScriptedBySize(Scripted):
    """Answers with times by config and size, the same in every round but for a little noise."""

    def submit_comparison(self, job):
        times, self._samples = self._samples, {}
        answers = []
        for workload in job.workloads:
            self._samples = {
                variant.key: [times[variant.key][workload] * (1 + 1e-4 * n) for n in range(ROUNDS_PER_LOOK)]
                for variant in job.variants
            }
            super().submit_comparison(replace(job, workloads=(workload,)))
            answers.append(self._outcomes.pop())
        self._samples = times
        merged = [
            replace(parts[0], measurements=tuple(m for part in parts for m in part.measurements))
            for parts in zip(*(a.evaluations for a in answers), strict=True)
        ]
        self._outcomes.append(replace(answers[0], evaluations=tuple(merged)))


def settle(times, bounds, chosen, default="default", factor=math.inf):
    """Regimes of some sizes whose finals have the default and one config each; the bounds that follow."""
    sizes = {f"w{n}": n for n in SIZES}
    runner = ScriptedBySize({key: dict(zip(sizes, us, strict=True)) for key, us in times.items()})
    regimes, finals = split(sizes, bounds), {}
    for regime, config in zip(regimes, chosen, strict=True):
        finalists = {
            key: Finalist(Variant(key, "d", {}, "main.py::run", "python", "cpu").built(key), {}, (key != default, key))
            for key in (config, default)
        }
        finals[regime.name] = run_final(
            runner, finalists, regime, default=default, method=Method(), max_rounds=12, deadline=math.inf, seed=0
        )  # fmt: skip
    guards = {regime.name: Guard(factor) for regime in regimes}
    regimes, found, crossings = settled(runner, regimes, finals, guards, Method(), 0)
    return [found[r.name].winner for r in regimes], [(c.was, c.bound) for c in crossings], crossings


def test_a_regime_between_two_better_neighbours_keeps_a_size_and_bounds_stay_in_order():
    """Both neighbours are faster on everything that lies between: each pair by itself would take all of it away."""
    times = {
        "default": [100] * 5, "small": [10, 10, 10, 90, 90], "middle": [50] * 5, "large": [90, 10, 10, 10, 10]
    }  # fmt: skip
    winners, bounds, crossings = settle(times, (16, 200), ["small", "middle", "large"])
    assert winners == ["small", "middle", "large"]
    (_, first), (_, second) = bounds
    assert first < second
    moved = [w for c in crossings for w in c.moved]
    assert len(moved) == len(set(moved)) < 2, "w64 and w128 are the middle's; one of them stays"


def test_a_winner_that_is_slower_than_the_default_gains_nothing():
    """``upper`` beats ``lower`` at 128, and the default beats both there: the guard looks at what is gained, too. The
    default serves that size, as a part of its own."""
    times = {"default": [100, 100, 20, 100, 100], "lower": [10, 10, 40, 60, 60], "upper": [90, 90, 30, 10, 10]}
    winners, bounds, _ = settle(times, (200,), ["lower", "upper"])
    assert winners == ["lower", "default", "upper"]
    (_, first), (_, second) = bounds
    assert 64 <= first < 128 <= second < 512


def test_a_winner_may_gain_what_it_is_best_at():
    times = {"default": [100] * 5, "lower": [10, 10, 40, 60, 60], "upper": [90, 90, 30, 10, 10]}
    winners, ((was, bound),), crossings = settle(times, (200,), ["lower", "upper"])
    assert winners == ["lower", "upper"]
    assert was == 200
    assert 64 <= bound < 128
    assert set(crossings[0].moved) == {"w128"}
