"""No config wins that is slower than the default, or far behind, on any workload."""

import math

import numpy as np
import pytest

from tuner.sweeps.finals.guard import Guard
from tuner.sweeps.finals.ranking import rank
from tuner.sweeps.finals.statistics import compare

ROUNDS = 24


def rounds(seed=0, noise=0.002, **medians):
    rng = np.random.default_rng(seed)
    return {w: (us * np.exp(rng.normal(0, noise, ROUNDS))).tolist() for w, us in medians.items()}


def ranked(keys, guard=None, weights=None, default="default"):
    return rank(keys, {k: (0, k) for k in keys}, default, weights=weights, guard=guard)


def test_the_best_mean_does_not_win_if_it_is_slower_than_the_default_somewhere():
    keys = {
        "default": rounds(1, a=100, b=100),
        "skewed": rounds(2, a=50, b=110),
        "sound": rounds(3, a=80, b=99),
    }
    assert ranked(keys).winner == "skewed"
    found = ranked(keys, Guard())
    assert found.winner == "sound"
    assert "slower than the default on b, by 1" in found.refused["skewed"]
    assert "1 refused by the guard" in found.reason


def test_noise_refuses_nobody():
    keys = {"default": rounds(1, 0.05, a=100, b=100), "other": rounds(2, 0.05, a=60, b=100)}
    assert ranked(keys, Guard()).winner == "other"


def test_far_behind_the_best_known_is_refused_also_if_only_the_search_saw_it():
    keys = {"default": rounds(1, a=100, b=90), "other": rounds(2, a=50, b=90.3)}
    found = ranked(keys, Guard(1.5, {"b": 40.0}))
    assert found.winner == "default"
    assert "times the best known on b, at most 1.5" in found.refused["other"]


def test_without_a_default_the_fastest_wins_even_if_all_are_refused():
    keys = {"one": rounds(1, a=100, b=10), "two": rounds(2, a=10, b=90)}
    found = ranked(keys, Guard(1.5), default=None)
    assert found.winner == "two"
    assert set(found.refused) == {"two"}, "what stands against the winner is said; the other one is behind anyway"


def test_weights_decide_who_is_fastest():
    keys = {"default": rounds(1, a=100, b=100), "one": rounds(2, a=50, b=98), "two": rounds(3, a=98, b=60)}
    assert ranked(keys, weights={"a": 1.0, "b": 1.0}).winner == "one"
    assert ranked(keys, weights={"a": 1.0, "b": 3.0}).winner == "two"


def test_the_ratio_is_weighted():
    a, b = rounds(1, 0, a=200, b=100), rounds(2, 0, a=100, b=100)
    assert compare(a, b, weights={"a": 3.0, "b": 1.0}).ratio == pytest.approx(math.exp(0.75 * math.log(2)))
    assert compare(a, b, weights={"a": 0.0, "b": 0.0}).ratio == pytest.approx(math.sqrt(2))


def test_what_is_far_behind_is_not_refused_for_a_default_that_is_further_behind():
    """Would catch a final beside other load that gives the default, 20 times slower than what was refused."""
    rounds = {"fast": {"w": [258.0] * 12}, "default": {"w": [3280.0] * 12}}
    guard = Guard(1.5, {"w": 149.0})
    assert "fast" not in guard.refused(rounds, "default")
    assert "fast" in guard.refused({**rounds, "default": {"w": [200.0] * 12}}, "default")
