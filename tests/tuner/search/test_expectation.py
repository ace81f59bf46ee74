"""A model's expectation: it leads where it is right, costs little where it is wrong, and never stops a search."""

import logging
import math

import pytest

from search_spaces.parameters import Constraint, Parameter
from search_spaces.space import SearchSpace
from tuner.search import Search

SIZES = (8, 16, 32, 64, 128)


def make_space(columns: int) -> SearchSpace:
    """Five to the ``columns`` configs, without the first two parameters both at their largest."""
    parameters = tuple(Parameter(f"p{i}", SIZES) for i in range(columns))
    return SearchSpace(
        name="made",
        target="cpu",
        parameters=parameters,
        constraints=(Constraint(("p0", "p1"), "too large", lambda c: c["p0"] * c["p1"] < 128 * 128),),
        default=dict.fromkeys((p.name for p in parameters), 8),
        sources={},
    )


def value_of(config) -> float:
    """Smallest at 64, in every parameter."""
    return sum((math.log2(size) - 6) ** 2 for size in config.values()) / len(config)


def best_after(space, expect, trials, seed=0) -> float:
    search = Search(space, seed=seed, expect=expect)
    best = math.inf
    for _ in range(trials):
        proposal = search.ask()
        value = value_of(proposal.config)
        search.tell(proposal.number, value)
        best = min(best, value)
    return best


def test_a_right_model_leads_to_the_best_of_a_space_that_is_too_large_to_list():
    """5^14 configs: the best is reached by the first step after the default."""
    assert best_after(make_space(14), value_of, 2) == 0.0


def test_a_model_that_is_right_up_to_one_parameter_is_corrected():
    space = make_space(8)

    def wrong_in_p0(config) -> float:
        return value_of({**config, "p0": 128 * 8 // config["p0"] if config["p0"] < 64 else 64})

    assert best_after(space, wrong_in_p0, 30) <= best_after(space, None, 30)
    assert best_after(space, wrong_in_p0, 40) < 0.2


@pytest.mark.parametrize("sign", [-1.0, 0.0])
def test_a_wrong_model_is_not_trusted_for_long(sign):
    """Reversed, or the same for all configs: after 60 trials the search is where it is without a model."""
    space = make_space(5)
    search = Search(space, seed=1, expect=lambda config: sign * value_of(config))
    for _ in range(25):
        proposal = search.ask()
        search.tell(proposal.number, value_of(proposal.config))
    if sign < 0:
        assert search._sampler._expectation.trust < 0.1
    assert best_after(space, lambda config: sign * value_of(config), 60, 1) <= best_after(space, None, 60, 1) + 0.2


def test_a_right_model_keeps_its_trust_whatever_its_unit_of_offset():
    space = make_space(5)
    search = Search(space, seed=1, expect=lambda config: value_of(config) + 100.0)
    for _ in range(25):
        proposal = search.ask()
        search.tell(proposal.number, value_of(proposal.config))
    assert search._sampler._expectation.trust > 0.7


def test_a_model_that_fails_is_left_alone_with_one_line(caplog):
    def broken(config):
        raise ZeroDivisionError("division by zero")

    with caplog.at_level(logging.WARNING):
        assert math.isfinite(best_after(make_space(4), broken, 15))
    assert [r.message for r in caplog.records] == ["the space's model is not used: ZeroDivisionError: division by zero"]


@pytest.mark.parametrize("said", [None, math.nan, math.inf])
def test_where_nothing_is_expected_the_search_goes_on(said):
    expect = lambda config: said if config["p0"] > 16 else value_of(config)  # noqa: E731
    assert math.isfinite(best_after(make_space(4), expect, 25))


def test_every_config_is_proposed_once_with_a_model_too():
    space = make_space(2)
    search = Search(space, seed=3, expect=value_of)
    seen = []
    while (proposal := search.ask()) is not None:
        seen.append(tuple(proposal.config.values()))
        search.tell(proposal.number, None if proposal.config["p1"] == 32 else value_of(proposal.config))
    assert sorted(seen) == sorted(tuple(c.values()) for c in space.enumerate())


@pytest.mark.parametrize("sampler", ["random", "grid", "tpe"])
def test_other_samplers_do_not_look_at_it(sampler):
    asked = []
    search = Search(make_space(3), sampler=sampler, expect=lambda config: asked.append(config) or 0.0)
    for _ in range(20):
        proposal = search.ask()
        search.tell(proposal.number, value_of(proposal.config))
    assert asked == []


def test_a_model_that_knows_more_is_believed_and_its_candidates_are_not_looked_for_again():
    """The climb takes seconds on a large space: twice would stop a sweep in its midst."""
    asked = []

    def counted(config) -> float:
        asked.append(config)
        return value_of(config)

    search = Search(make_space(14), seed=0, expect=lambda config: -value_of(config))
    first = [search.ask() for _ in range(4)]
    assert max(value_of(p.config) for p in first) > 8, "the first model leads to the other end"
    search.expect(counted)
    for _ in range(2):
        search.ask()
    assert 0 < len(asked) <= 300, "no more than the candidates that are there"
    for proposal in first:
        search.tell(proposal.number, value_of(proposal.config))
    best = min(value_of(search.ask().config) for _ in range(4))
    assert best < min(value_of(p.config) for p in first)


@pytest.mark.parametrize("first", [lambda config: None, lambda config: {}["rows"]])
def test_a_model_that_said_nothing_before_the_workloads_were_there_leads_once_they_are(first):
    """Would catch a search that never looks for its candidates again: a model may need figures of the inputs."""
    search = Search(make_space(14), seed=0, expect=first)
    for _ in range(4):
        search.ask()
    search.expect(value_of)
    assert min(value_of(search.ask().config) for _ in range(2)) == 0.0


def test_what_is_expected_is_found_out_ahead_if_it_is_asked_for():
    """Would catch a search that looks at its whole space within the first proposal that results lead to, while
    builders wait for it."""
    space = make_space(14)
    asked = []

    def expect(config) -> float:
        asked.append(1)
        return value_of(config)

    search = Search(space, expect=lambda config: 0.0)
    made = [search.ask() for _ in range(6)]
    search.expect(expect)
    search.prepare()
    ahead = len(asked)
    for proposal in made:
        search.tell(proposal.number, value_of(proposal.config))
    search.ask()
    assert ahead > 1_000
    assert len(asked) - ahead < ahead / 2
