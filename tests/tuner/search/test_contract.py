"""The contract that every strategy keeps, whatever it proposes."""

import math

import pytest

from search_spaces.parameters import Constraint, Parameter, SpaceError
from search_spaces.space import SearchSpace
from tuner.search import Proposal, Search, sampler_names


def make_space(**changes):
    parameters = (
        Parameter("tile", (16, 48, 64)),
        Parameter("stages", (1, 2)),
        Parameter("layout", ("row", "column", "blocked"), "categorical"),
        Parameter("fused", (False, True)),
        Parameter("only", (7,)),
    )
    fields = {
        "name": "small",
        "target": "cpu",
        "parameters": parameters,
        "constraints": (
            Constraint(("tile", "stages"), "does not fit", lambda c: c["tile"] * c["stages"] <= 100),
            Constraint(("layout", "fused"), "not written", lambda c: not (c["layout"] == "column" and c["fused"])),
        ),
        "default": {"tile": 16, "stages": 1, "layout": "row", "fused": False, "only": 7},
        "sources": {},
    }
    return SearchSpace(**{**fields, **changes})


def value_of(config):
    """Fails for one corner; smallest for a blocked tile of 48."""
    if config["tile"] == 64 and config["fused"]:
        return None
    return abs(math.log(config["tile"] / 48)) + 0.1 * config["stages"] + (config["layout"] != "blocked")


def key(config):
    return tuple((k, repr(v)) for k, v in sorted(config.items()))


# Optuna's GP sampler takes a second a proposal, so its part of the suite is slow.
@pytest.fixture(params=[pytest.param(s, marks=pytest.mark.slow if s == "gp" else ()) for s in sampler_names()])
def sampler(request):
    return request.param


def test_every_valid_config_is_proposed_exactly_once_and_then_none(sampler):
    space = make_space()
    search = Search(space, sampler=sampler, seed=1)
    seen = []
    while (proposal := search.ask()) is not None:
        assert space.is_valid(proposal.config)
        assert space.check(proposal.config) == proposal.config
        seen.append(key(proposal.config))
        search.tell(proposal.number, value_of(proposal.config))
    assert sorted(seen) == sorted(key(c) for c in space.enumerate())
    assert search.ask() is None


def test_tuples_and_names_with_dots_are_like_others(sampler):
    space = make_space(
        parameters=(Parameter("cluster", ((1, 1), (2, 1), (2, 2)), "categorical"), Parameter("gemm.tile", (16, 32))),
        constraints=(Constraint(("cluster", "gemm.tile"), "big", lambda c: c["cluster"][0] * c["gemm.tile"] < 64),),
        default={"cluster": (2, 1), "gemm.tile": 16},
    )
    search = Search(space, sampler=sampler, seed=1, prior=[({"cluster": [1, 1], "gemm.tile": 16}, 1.0)] * 8)
    seen = []
    while (proposal := search.ask()) is not None:
        seen.append(key(proposal.config))
        search.tell(proposal.number, float(proposal.config["cluster"][1]))
    assert sorted(seen) == sorted(key(c) for c in space.enumerate())
    assert len(seen) == 4


@pytest.mark.parametrize("sign", [1, -1])
def test_nothing_is_left_out_or_repeated_after_a_related_sweep(sign):
    """The search does not know what was tried for a relative's sake, until it would have tried it by itself."""
    space = make_space(parameters=(*make_space().parameters[:4], Parameter("only", (7, 8, 9))))
    prior = [(c, None if (v := value_of(c)) is None else sign * v) for c in space.enumerate()]
    search = Search(space, seed=1, prior=prior)
    seen = []
    while (proposal := search.ask()) is not None:
        seen.append(key(proposal.config))
        search.tell(proposal.number, value_of(proposal.config))
    assert sorted(seen) == sorted(key(c) for c in space.enumerate())


def test_default_comes_first_then_warm_configs_then_the_sampler(sampler):
    space = make_space()
    warm = {"tile": 48, "stages": 2, "layout": "blocked", "fused": True, "only": 7}
    invalid = {**warm, "tile": 64}
    of_another_version = {**warm, "cluster": 2}
    search = Search(space, sampler=sampler, warm_start=[invalid, of_another_version, warm, space.default])
    first, second, third = search.ask(), search.ask(), search.ask()
    assert (first.config, first.origin) == (space.default, "default")
    assert (second.config, second.origin) == (warm, "warm")
    assert third.origin == "sampler"
    assert key(third.config) not in {key(space.default), key(warm)}


def test_proposals_in_flight_differ_and_may_end_in_any_order(sampler):
    space = make_space()
    search = Search(space, sampler=sampler, seed=2)
    flying: list[Proposal] = []
    seen = set()
    while True:
        while len(flying) < 5 and (proposal := search.ask()) is not None:
            assert key(proposal.config) not in seen
            seen.add(key(proposal.config))
            flying.append(proposal)
        if not flying:
            break
        done = flying.pop(len(flying) // 2)
        search.tell(done.number, value_of(done.config))
    assert len(seen) == len(list(space.enumerate()))


def test_a_space_where_everything_fails_is_searched_to_its_end(sampler):
    space = make_space()
    search = Search(space, sampler=sampler)
    count = 0
    while (proposal := search.ask()) is not None:
        search.tell(proposal.number, None, detail="COMPILE_ERROR")
        count += 1
    assert count == len(list(space.enumerate()))
    assert {t.state.name for t in search.study.trials} == {"FAIL"}
    assert {t.user_attrs["detail"] for t in search.study.trials} == {"COMPILE_ERROR"}


def test_equal_values_are_searched_to_the_end(sampler):
    search = Search(make_space(), sampler=sampler)
    count = 0
    while (proposal := search.ask()) is not None:
        search.tell(proposal.number, 3.0)
        count += 1
    assert count == len(list(make_space().enumerate()))


def test_observed_trials_are_not_proposed_again(sampler):
    space = make_space()
    finished = list(space.enumerate())[::2]
    resumed = Search(space, sampler=sampler, seed=3)
    for config in [space.default, *finished]:
        resumed.observe(config, value_of(config))
    taken = {key(c) for c in [space.default, *finished]}
    while (proposal := resumed.ask()) is not None:
        assert proposal.origin == "sampler"
        assert key(proposal.config) not in taken
        taken.add(key(proposal.config))
        resumed.tell(proposal.number, value_of(proposal.config))
    assert len(taken) == len(list(space.enumerate()))


def test_same_seed_same_proposals(sampler):
    def proposals(seed):
        search = Search(make_space(), sampler=sampler, seed=seed)
        out = []
        for _ in range(13):
            proposal = search.ask()
            out.append(key(proposal.config))
            search.tell(proposal.number, value_of(proposal.config))
        return out

    first = proposals(7)
    assert proposals(7) == first
    if sampler != "grid":
        assert proposals(8) != first


def test_study_holds_values_of_the_space_and_can_be_stored(sampler):
    import optuna

    search = Search(make_space(), sampler=sampler)
    for _ in range(6):
        proposal = search.ask()
        search.tell(proposal.number, value_of(proposal.config))
    in_flight = search.ask()
    assert [t.state.is_finished() for t in search.study.trials] == [True] * 6 + [False]
    assert search.study.trials[in_flight.number].params.keys() == in_flight.config.keys()
    stored = optuna.create_study(storage="sqlite://")
    stored.add_trials([t for t in search.study.trials if t.state.is_finished()])
    assert stored.best_value == search.study.best_value
    assert set(stored.best_params) == set(make_space().by_name)


@pytest.mark.parametrize("told_by", ["observe", "study"])
def test_what_a_search_knows_is_what_its_study_holds(sampler, told_by):
    """Catches a result that reaches the sampler by another way than the study, or that it does not read there."""
    first = Search(make_space(), sampler=sampler, seed=5)
    for number in range(8):
        proposal = first.ask()
        first.tell(proposal.number, value_of(proposal.config) if number != 4 else None)
    finished = [(dict(t.params), t.value) for t in first.study.trials]

    def goes_on(search):
        return [key(search.ask().config) for _ in range(3)]

    resumed, reference = (Search(make_space(), sampler=sampler, seed=5) for _ in range(2))
    for config, value in finished:
        reference.observe(config, value)
    if told_by == "observe":
        for config, value in finished:
            resumed.observe(config, value)
    else:
        resumed.study.add_trials(first.study.trials)
        resumed._sampler.read(resumed.study)
    assert {key(c) for c, _ in finished}.isdisjoint(after := goes_on(resumed))
    assert after == goes_on(reference)
    assert resumed._table.values == first._table.values


def test_values_that_python_takes_for_equal_stay_apart(sampler):
    space = SearchSpace(
        name="mixed",
        target="cpu",
        parameters=(Parameter("a", (0, False, "0", 1, True, 2.5)), Parameter("b", (1, 2))),
        constraints=(),
        default={"a": False, "b": 1},
        sources={},
    )
    search = Search(space, sampler=sampler)
    seen = []
    while (proposal := search.ask()) is not None:
        seen.append(key(proposal.config))
        search.tell(proposal.number, float(len(seen)))
    assert len(seen) == len(set(seen)) == 12


def test_tell_refuses_what_was_not_asked_and_what_is_not_finite(sampler):
    search = Search(make_space(), sampler=sampler)
    proposal = search.ask()
    with pytest.raises(ValueError, match="no proposal 99 is in flight"):
        search.tell(99, 1.0)
    with pytest.raises(ValueError, match="finite"):
        search.tell(proposal.number, math.nan)
    search.tell(proposal.number, 1.0)
    with pytest.raises(ValueError, match="in flight"):
        search.tell(proposal.number, 1.0)


def test_observe_refuses_a_config_of_another_space(sampler):
    search = Search(make_space(), sampler=sampler)
    with pytest.raises(SpaceError, match="unknown parameter"):
        search.observe({**make_space().default, "cluster": 2}, 1.0)


def test_unknown_sampler_is_named():
    with pytest.raises(ValueError, match="unknown sampler 'annealing'"):
        Search(make_space(), sampler="annealing")


def test_gp_goes_on_after_its_random_start():
    search = Search(make_space(), sampler="gp")
    seen = set()
    for _ in range(12):
        proposal = search.ask()
        assert key(proposal.config) not in seen
        seen.add(key(proposal.config))
        search.tell(proposal.number, float(proposal.config["tile"]))
