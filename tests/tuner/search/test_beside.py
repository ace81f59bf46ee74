"""Searches of one space at several sizes: what one finds helps the others, and misleads none for long."""

import math

import pytest

from search_spaces.parameters import Parameter
from search_spaces.space import SearchSpace
from tuner.search import Search
from tuner.search.beside import introduce

SIZES = (8, 16, 32, 64, 128)
SEEDS = range(4)


def make_space(columns: int) -> SearchSpace:
    parameters = tuple(Parameter(f"p{i}", SIZES) for i in range(columns))
    default = dict.fromkeys((p.name for p in parameters), 8)
    return SearchSpace(name="made", target="cpu", parameters=parameters, constraints=(), default=default, sources={})


def value_of(config, shift=0.0, sign=1.0) -> float:
    """Smallest near 64 in every parameter; a shift moves the optimum of the first one."""
    steps = [math.log2(size) - 6 for size in config.values()]
    steps[0] += shift
    return sign * sum(step**2 for step in steps) / len(steps)


def best_of_both(values, beside, seed, trials=18, sampler="auto") -> list[float]:
    """The best of each of two searches that take turns."""
    space = make_space(5)
    searches = [Search(space, seed=1000 * seed + i, sampler=sampler) for i in range(len(values))]
    if beside:
        introduce(searches, [[2**i, 2 ** (i + 1)] for i in range(len(searches))])
    best = [math.inf] * len(values)
    for _ in range(trials):
        for i, (search, value) in enumerate(zip(searches, values, strict=True)):
            proposal = search.ask()
            told = value(proposal.config)
            search.tell(proposal.number, told)
            best[i] = min(best[i], told)
    return best


def mean(values, beside, trials=18):
    runs = [best_of_both(values, beside, seed, trials) for seed in SEEDS]
    return sum(map(sum, runs)) / len(runs) / len(values)


def test_searches_of_alike_sizes_find_the_best_sooner_together():
    alike = [value_of, lambda config: 5.0 + 2.0 * value_of(config, 0.3), lambda config: value_of(config, 0.6)]
    offset, together, alone = 5.0 / 3, mean(alike, True), mean(alike, False)
    assert together - offset < 0.8 * (alone - offset)


def test_a_search_whose_sizes_want_the_opposite_is_not_misled_for_long():
    opposite = [value_of, lambda config: value_of(config, sign=-1.0)]
    assert mean(opposite, True, 30) <= mean(opposite, False, 30) + 0.4


@pytest.mark.parametrize("sampler", ["random", "grid", "tpe"])
def test_other_samplers_search_alone(sampler):
    values = [value_of, value_of]
    assert best_of_both(values, True, 1, 10, sampler) == best_of_both(values, False, 1, 10, sampler)


@pytest.mark.parametrize("sizes", [[[], []], [[7]]])
def test_searches_without_sizes_and_single_ones_stay_alone(sizes):
    searches = [Search(make_space(2)) for _ in sizes]
    introduce(searches, sizes)
    assert not any(search._sampler._siblings for search in searches)


def test_failures_and_open_trials_of_others_are_no_values():
    searches = [Search(make_space(4), seed=i) for i in range(2)]
    introduce(searches, [[1], [1000]])
    for i in range(30):
        for search in searches:
            proposal = search.ask()
            if i % 7 != 5:
                search.tell(proposal.number, None if i % 3 == 2 else value_of(proposal.config))
    points, wanted = searches[0]._sampler.told(10)
    assert len(points) == len(wanted) == 10
    assert wanted.min() == wanted[0], "the best one first"
    assert [search._sampler._place for search in searches] == [0.0, 1.0]
