"""Bounds between regimes stand where the winners cross, by measurement, and move on evidence alone."""

import itertools

import numpy as np
import pytest

from db.records import WinnerRecord, WinnerWorkload
from tuner.sweeps.finals.crossings import Crossing, applied, find

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
    assert reason == "measured"


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
