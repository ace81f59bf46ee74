"""The median's interval: exact ranks, and coverage on distributions whose median is known."""

import math
import random

import pytest

from workers.judge.timing.interval import median_interval

# n -> (index of the lower end, coverage). Source: Hollander, Wolfe, Chicken, table of binomial sign-test ranks.
RANKS = {
    6: (0, 0.96875),
    9: (1, 0.9609375),
    10: (1, 0.978515625),
    20: (5, 0.958610534667969),
    25: (7, 0.956714749336243),
}


@pytest.mark.parametrize("n", RANKS)
def test_exact_ranks(n):
    rank, coverage = RANKS[n]
    values = random.Random(n).sample(range(1000), n)
    found = median_interval(values)
    ordered = sorted(values)
    assert (found.low, found.high) == (ordered[rank], ordered[-1 - rank])
    assert found.coverage == pytest.approx(coverage, abs=1e-9)


@pytest.mark.parametrize(("n", "coverage"), [(1, 0.0), (2, 0.5), (5, 0.9375)])
def test_few_samples_give_the_extremes_and_say_so(n, coverage):
    found = median_interval(list(range(n)))
    assert (found.low, found.high, found.coverage) == (0, n - 1, pytest.approx(coverage))


def test_no_samples():
    with pytest.raises(ValueError, match="no samples"):
        median_interval([])


def test_relative_width():
    found = median_interval([98.0] * 3 + [100.0] * 4 + [104.0] * 3)
    assert found.rel_half_width == pytest.approx(0.04)
    assert median_interval([0.0]).rel_half_width == math.inf


DISTRIBUTIONS = {
    "lognormal": (lambda rng: rng.lognormvariate(1.0, 0.8), math.e),
    "exponential": (lambda rng: rng.expovariate(1.0), math.log(2)),
    "two modes": (lambda rng: rng.gauss(10, 1) if rng.random() < 0.5 else rng.gauss(30, 1), 20.0),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("n", [8, 25, 100, 1500])
def test_coverage_is_at_least_what_is_promised(name, n):
    draw, median = DISTRIBUTIONS[name]
    rng = random.Random(20_000 + n)
    trials = 400
    inside = 0
    for _ in range(trials):
        found = median_interval([draw(rng) for _ in range(n)])
        inside += found.low <= median <= found.high
    # Three standard errors of a share of 0.95 below it.
    assert inside / trials >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / trials)
