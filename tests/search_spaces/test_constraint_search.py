"""Walks: nothing valid left out, nothing invalid let in, however sparse the space."""

import random

import pytest

from search_spaces.constraint_search import Walk
from search_spaces.space import Constraint, Parameter, SearchSpace, SpaceError
from tuner.search import Search
from tuner.search import candidates as ledger_module


def make_space(count, constraints, default):
    parameters = tuple(Parameter(f"p{i}", tuple(range(10))) for i in range(count))
    return SearchSpace("walked", "cpu", parameters, constraints, default, {})


def chain(count):
    """Each value is its predecessor's or one more: 10 ** count combinations, few of them valid."""
    rules = tuple(
        Constraint((f"p{i}", f"p{i + 1}"), "not in step", lambda c, i=i: c[f"p{i + 1}"] - c[f"p{i}"] in (0, 1))
        for i in range(count - 1)
    )
    return make_space(count, rules, {f"p{i}": 0 for i in range(count)})


def test_all_points_in_order_or_none_where_there_are_too_many():
    space = chain(4)
    walk = Walk(space)
    names = list(space.by_name)
    expected = [tuple(c[n] for n in names) for c in space.enumerate()]
    assert walk.all(limit=len(expected), checks=10**6) == expected
    assert walk.all(limit=len(expected) - 1, checks=10**6) is None
    assert walk.all(limit=len(expected), checks=50) is None


def test_samples_are_valid_and_reach_every_config():
    space = chain(3)
    walk = Walk(space)
    rng = random.Random(0)
    seen = {walk.sample(rng) for _ in range(2000)}
    assert seen == set(walk.all(10**4, 10**6))


def test_a_needle_is_found_and_an_empty_space_is_an_error():
    everything = ("p0", "p1", "p2", "p3")
    needle = make_space(
        4, (Constraint(everything, "one only", lambda c: sum(c.values()) == 36),), dict.fromkeys(everything, 9)
    )
    assert Walk(needle).sample(random.Random(0)) == (9, 9, 9, 9)
    allowed = [True]
    empty = make_space(2, (Constraint(("p0",), "closed", lambda c: allowed[0]),), {"p0": 0, "p1": 0})
    allowed[0] = False
    with pytest.raises(SpaceError, match="no config satisfies"):
        Walk(empty).sample(random.Random(0))


def test_the_size_estimate_is_right_on_average():
    space = chain(5)
    exact = len(list(space.enumerate()))
    assert Walk(space).size(random.Random(0)) == pytest.approx(exact, rel=0.2)


@pytest.mark.parametrize("sampler", ["auto", "tpe", "random", "grid"])
def test_a_space_too_large_to_list_is_searched_without_repeats_and_to_its_end(sampler, monkeypatch):
    monkeypatch.setattr(ledger_module, "LIST_LIMIT", 5)
    monkeypatch.setattr(ledger_module, "SAMPLE_START", 12)
    space = chain(3)
    search = Search(space, sampler=sampler, seed=4)
    seen = set()
    while (proposal := search.ask()) is not None:
        point = tuple(proposal.config.values())
        assert space.is_valid(proposal.config)
        assert point not in seen
        seen.add(point)
        search.tell(proposal.number, float(sum((v - 5) ** 2 for v in point)))
    assert len(seen) == len(list(space.enumerate()))
