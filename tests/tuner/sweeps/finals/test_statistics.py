"""Decisions between variants, on samples whose true ratio is known."""

import numpy as np
import pytest

from tuner.sweeps.finals.ranking import rank
from tuner.sweeps.finals.statistics import TIE_MARGIN, compare

WORKLOADS = ("w1", "w2", "w3")


def paired(ratios: dict[str, float], rounds: int, noise: float, seed: int) -> dict[str, dict[str, list[float]]]:
    """Rounds of variants with known latency ratios; a round's machine state multiplies all of them (synthetic)."""
    rng = np.random.default_rng(seed)
    state = np.exp(np.cumsum(rng.normal(0, 0.02, rounds)))
    base = {"w1": 10.0, "w2": 100.0, "w3": 1000.0}
    return {
        key: {w: list(base[w] * ratio * state * np.exp(rng.normal(0, noise, rounds))) for w in WORKLOADS}
        for key, ratio in ratios.items()
    }


def test_ratio_is_found_under_drift_that_is_larger_than_the_difference():
    rounds = paired({"a": 0.97, "b": 1.0}, rounds=60, noise=0.02, seed=1)
    ratio = compare(rounds["a"], rounds["b"])
    assert ratio.low < 0.97 < ratio.high
    assert ratio.verdict == "faster"


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_interval_covers_the_true_ratio_as_often_as_it_says(confidence):
    hits = 0
    for seed in range(300):
        rounds = paired({"a": 1.1, "b": 1.0}, rounds=20, noise=0.05, seed=seed)
        known = compare(rounds["a"], rounds["b"], confidence)
        hits += known.low <= 1.1 <= known.high
    assert hits / 300 >= confidence - 0.04


def test_the_order_in_which_workloads_come_is_no_matter():
    """Equal but for the last bit, which depends on the order in which logarithms are added."""
    latencies = {"a": (3.0, 8.3, 8.9), "b": (8.9, 3.0, 8.3)}
    rounds = {key: {w: [v] * 6 for w, v in zip(WORKLOADS, values, strict=True)} for key, values in latencies.items()}
    turned = {key: dict(reversed(of.items())) for key, of in rounds.items()}
    assert rank(rounds, {"a": (1,), "b": (0,)}) == rank(turned, {"a": (1,), "b": (0,)})


def test_equal_variants_are_a_tie_and_the_simpler_one_wins():
    rounds = paired({"plain": 1.0, "fancy": 1.0, "default": 1.5}, rounds=400, noise=0.01, seed=3)
    ranking = rank(rounds, {"plain": (1,), "fancy": (5,), "default": (0,)}, default="default")
    assert ranking.winner == "plain"
    assert ranking.settled


def test_a_leader_inside_noise_gives_way_to_the_default():
    rounds = paired({"default": 1.0, "lucky": 1.0}, rounds=8, noise=0.2, seed=5)
    rounds["lucky"] = {w: [x * 0.999 for x in v] for w, v in rounds["default"].items()}
    rounds["lucky"]["w1"][0] *= 4
    rounds["lucky"]["w2"][1] *= 4
    ranking = rank(rounds, {"default": (0,), "lucky": (3,)}, default="default")
    assert ranking.winner == "default"


def test_default_is_wrongly_dethroned_at_most_as_often_as_the_error_allows():
    wrong = 0
    for seed in range(200):
        rounds = paired({"default": 1.0, "x": 1.0, "y": 1.0, "z": 1.0}, rounds=24, noise=0.03, seed=1000 + seed)
        simplicity = {"default": (9,), "x": (1,), "y": (1,), "z": (1,)}
        winner = rank(rounds, simplicity, default="default", looks=4).winner
        wrong += winner != "default"
    assert wrong / 200 <= 0.05


def test_clearly_slower_finalists_settle_the_ranking():
    rounds = paired({"a": 1.0, "b": 1.2, "default": 2.0}, rounds=24, noise=0.02, seed=7)
    ranking = rank(rounds, {"a": (2,), "b": (1,), "default": (0,)}, default="default", looks=8)
    assert ranking.winner == "a"
    assert ranking.settled
    assert ranking.against_winner["b"].ratio == pytest.approx(1.2, rel=0.02)


def test_tie_needs_the_whole_interval_inside_the_margin():
    rounds = paired({"a": 1.0, "b": 1.0 + TIE_MARGIN * 3}, rounds=400, noise=0.01, seed=9)
    assert compare(rounds["b"], rounds["a"]).verdict == "slower"


@pytest.mark.parametrize("broken", [{"w1": [1.0]}, {"w1": [1.0, 2.0], "w2": [1.0, 2.0]}, {}])
def test_unpaired_samples_are_refused(broken):
    with pytest.raises(ValueError, match="paired"):
        compare(broken, {"w1": [1.0, 2.0]})
