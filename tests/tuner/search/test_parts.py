"""The parts of the search: what a surrogate sees, how values become targets, when to stop, what transfers."""

import math
from dataclasses import replace

import numpy as np
import pytest

from search_spaces.parameters import Constraint, Parameter
from search_spaces.space import SearchSpace
from tuner.search import Search
from tuner.search.gaussian_process.encoding import Encoding
from tuner.search.gaussian_process.features import Features
from tuner.search.gaussian_process.transform import Scale, targets
from tuner.search.stopping_rule import FEWEST_TRIALS, PATIENCE, TOLERANCE, Outlook, advise
from tuner.search.transfer import Transfer


def make_space(*parameters, constraints=()):
    default = {p.name: p.values[0] for p in parameters}
    return SearchSpace("s", "cpu", parameters, tuple(constraints), default, {})


SIZES = (Parameter("x", (8, 16, 24, 32, 48, 64, 96, 128)), Parameter("y", (1, 2, 4, 8, 16)))


def features_of(*parameters):
    features = Features.of(Encoding(make_space(*parameters)))
    return lambda *point: features(np.array([point], dtype=np.int16))[0]


def test_sizes_are_seen_by_ratio_by_powers_of_two_and_by_product():
    see = features_of(*SIZES)
    assert see(0, 0).tolist() == [0.0, 0.0, 0.0, 0.0]
    assert see(7, 4).tolist() == pytest.approx([1.0, 1.0, 1.0, 1.0])
    log_x, twos_x, log_y, product = see(2, 1)
    assert log_x == pytest.approx(math.log(3) / math.log(16))
    assert twos_x == 0.0  # 24 = 3 * 8 has as few twos as 8
    assert product == pytest.approx((math.log(3) + math.log(2)) / (math.log(16) + math.log(16)))
    assert log_y == pytest.approx(0.25)


def test_categories_are_equally_far_apart():
    see = features_of(Parameter("c", ("a", "b", "c", "d"), "categorical"))
    apart = {round(float(((see(i) - see(k)) ** 2).sum()), 9) for i in range(4) for k in range(i)}
    assert apart == {1.0}


@pytest.mark.parametrize(
    "parameter",
    [
        Parameter("a", (0, False, "x", 2.5)),
        Parameter("a", (-1, 0, 3)),
        Parameter("a", (5, 1, 9)),
        Parameter("a", (True, False)),
        Parameter("a", (3,)),
        Parameter("a", (0.5, 1.5)),
    ],
)
def test_any_kind_of_values_becomes_finite_columns(parameter):
    features = Features.of(Encoding(make_space(parameter)))
    columns = features(np.arange(len(parameter.values), dtype=np.int16)[:, None])
    assert np.isfinite(columns).all()
    assert len({tuple(row) for row in columns.tolist()}) == len(parameter.values)


def test_targets_ignore_unit_and_offset_and_keep_the_order():
    values = np.random.default_rng(0).lognormal(size=50)
    assert np.allclose(targets(values), targets(1000 * values + 7))
    assert (np.argsort(targets(values)) == np.argsort(values)).all()
    assert targets(np.array([3.0, 3.0])).tolist() == [0.0, 0.0]


def test_targets_bend_the_bad_half_and_nothing_else():
    values = np.array([0.0, 1.0, 2.0, 3.0, 1e6])
    got = targets(values)
    assert got[1] - got[0] == pytest.approx(got[2] - got[1])
    assert got[4] - got[2] < 40 * (got[2] - got[1])
    assert (values[1] - values[0]) / (got[1] - got[0]) == pytest.approx(Scale.of(values).spread)


def test_advice_waits_then_follows_the_expected_regret():
    stale = [1.0] + [2.0] * (FEWEST_TRIALS + PATIENCE)
    sure, unsure = Outlook(TOLERANCE / 2, 0.1), Outlook(TOLERANCE * 4, 0.6)
    assert not advise(stale[: FEWEST_TRIALS - 1], sure, exhausted=False).stop
    assert not advise([*stale, 0.5], sure, exhausted=False).stop
    assert not advise(stale, unsure, exhausted=False).stop
    advice = advise(stale, sure, exhausted=False)
    assert advice.stop
    assert advice.expected_regret == sure.regret
    assert "regret" in advice.reason
    assert advise([1.0], None, exhausted=True).stop


def test_advice_without_a_model_is_patience():
    assert not advise([2.0] * 39 + [1.0] + [2.0] * 39, None, exhausted=False).stop
    assert advise([2.0] * 10 + [1.0] + [2.0] * 80, None, exhausted=False).stop
    assert advise([None] * 80, None, exhausted=False).stop


def bowl(config):
    return math.log2(config["x"] / 48) ** 2 + math.log2(config["y"] / 4) ** 2


def test_a_search_advises_to_stop_once_a_smooth_space_is_understood():
    space = make_space(*SIZES, Parameter("z", tuple(range(12))))
    search = Search(space, seed=1)
    told = 0
    while not (advice := search.should_stop()).stop:
        proposal = search.ask()
        search.tell(proposal.number, bowl(proposal.config) + 0.05 * abs(proposal.config["z"] - 6))
        told += 1
    assert told < 200 < len(list(space.enumerate()))
    assert search.study.best_value == min(bowl(c) + 0.05 * abs(c["z"] - 6) for c in space.enumerate())
    assert advice.expected_regret < TOLERANCE


def test_the_expected_regret_allows_for_a_model_that_is_too_sure():
    """Results miss what models of rugged spaces foretell by more than these say, so the draws are spread wider."""
    space = make_space(*SIZES, Parameter("z", tuple(range(12))))
    search = Search(space, seed=1)
    for _ in range(12):
        proposal = search.ask()
        search.tell(proposal.number, bowl(proposal.config) + 0.1 * abs(proposal.config["z"] - 6))
    strategy = search._sampler
    allowed = strategy.outlook()
    strategy.options = replace(strategy.options, doubt=1.0)
    believed = strategy.outlook()
    assert allowed.regret > believed.regret > 0
    assert allowed.improvement >= believed.improvement


def test_transfer_ranks_like_the_related_sweep_over_unknown_parameters_and_values():
    space = make_space(*SIZES, Parameter("new", (1, 2)))
    old = make_space(Parameter("x", (4, *SIZES[0].values)), SIZES[1], Parameter("gone", (1, 2)))
    prior = [(c, None if c["y"] == 16 else bowl(c)) for c in old.enumerate()]
    transfer = Transfer(Encoding(space), prior)
    assert transfer.usable
    points = np.array([Encoding(space).point(c) for c in space.enumerate() if c["y"] < 16], dtype=np.int16)
    truth = np.array([bowl(c) for c in space.enumerate() if c["y"] < 16])
    assert np.corrcoef(np.argsort(np.argsort(transfer(points))), np.argsort(np.argsort(truth)))[0, 1] > 0.95


def test_too_little_or_unrelated_history_is_no_transfer():
    space = make_space(*SIZES)
    assert not Transfer(Encoding(space), []).usable
    assert not Transfer(Encoding(space), [({"q": i}, 1.0 * i) for i in range(50)]).usable
    assert not Transfer(Encoding(space), [({"x": 16, "y": 2}, 1.0)] * 50).usable


def test_a_sweep_without_a_usable_relative_is_a_cold_one():
    space = make_space(*SIZES, Parameter("z", tuple(range(12))))

    def proposals(prior):
        search, out = Search(space, seed=3, prior=prior), []
        for _ in range(15):
            proposal = search.ask()
            out.append(proposal.config)
            search.tell(proposal.number, bowl(proposal.config) + 0.05 * abs(proposal.config["z"] - 6))
        return out

    assert proposals([({"q": i}, 1.0 * i) for i in range(50)]) == proposals([])
    assert proposals([(c, bowl(c)) for c in space.enumerate()]) != proposals([])


def rugged(config):
    """A bowl with a ripple, so that no two configs tie."""
    return bowl(config) + 0.05 * abs(config["z"] - 6) + 0.01 * math.sin(7 * config["x"] + 3 * config["y"] + config["z"])


def test_a_relative_costs_its_suggestions_and_changes_nothing_else():
    space = make_space(*SIZES, Parameter("z", tuple(range(12))))

    def proposals(prior, count):
        search, out = Search(space, seed=5, prior=prior), []
        for _ in range(count):
            proposal = search.ask()
            out.append(proposal.config)
            search.tell(proposal.number, rugged(proposal.config))
        return out

    cold = proposals([], 60)
    warm = proposals([(c, -rugged(c)) for c in space.enumerate()], 63)
    suggestions = warm[1:4]
    # Some of them cold proposes later by itself: warm knows their result then, and does not propose them again.
    assert any(c in cold for c in suggestions)
    by_itself = [c for c in cold if c not in suggestions]
    assert [c for c in warm if c not in suggestions][: len(by_itself)] == by_itself


def test_a_warm_config_of_the_relative_is_set_aside_and_one_of_the_kernels_author_is_not():
    space = make_space(*SIZES, Parameter("z", tuple(range(12))))
    configs = list(space.enumerate())
    of_the_relative, of_the_author = configs[40], configs[50]
    prior = [(c, rugged(c)) for c in configs if c != of_the_author]
    search = Search(space, seed=5, warm_start=[of_the_relative, of_the_author], prior=prior)
    for _ in range(4):
        proposal = search.ask()
        search.tell(proposal.number, rugged(proposal.config))
    known, _ = search._sampler._known()
    tried = [search._encoding.config(search._table.points[row].tolist()) for row in known]
    assert tried == [space.default, of_the_author]
    assert len(search._table.order) == 4  # the fourth is the one suggestion for which there was room


def test_a_relative_that_is_right_gives_its_best_config_at_once():
    space = make_space(*SIZES, Parameter("z", tuple(range(12))))
    search = Search(space, seed=5, prior=[(c, 3 * rugged(c) - 1) for c in space.enumerate()])
    _, second = search.ask(), search.ask()
    assert sorted(map(rugged, space.enumerate())).index(rugged(second.config)) < 3


def test_prior_trials_are_tried_first_and_not_taken_as_done():
    space = make_space(*SIZES, constraints=[Constraint(("x", "y"), "too large", lambda c: c["x"] * c["y"] <= 512)])
    prior = [(c, bowl(c)) for c in space.enumerate()]
    search = Search(space, prior=prior)
    configs = [search.ask().config for _ in range(3)]
    assert configs[0] == space.default
    assert bowl(configs[1]) == min(v for _, v in prior)


def test_what_a_related_sweep_proposes_is_not_one_config_three_times():
    """Its best ones are neighbours; the second and third are the best of those that are not."""
    space = make_space(*SIZES, Parameter("z", tuple(range(12))))
    prior = [(c, bowl(c) + 0.05 * abs(c["z"] - 6)) for c in space.enumerate()]
    search = Search(space, prior=prior)
    _, *tried = (search.ask().config for _ in range(4))
    assert [c["z"] for c in tried[:1]] == [6]
    last = {p.name: len(p.values) - 1 for p in space.parameters}
    position = {p.name: p.values.index for p in space.parameters}

    def steps(a, b):
        return sum(abs(position[n](a[n]) - position[n](b[n])) / last[n] for n in last)

    usual = np.median([steps(c, tried[0]) for c, _ in prior])
    assert min(steps(tried[i], tried[k]) for i in range(3) for k in range(i)) >= 0.45 * usual
    ranks = [sorted(v for _, v in prior).index(bowl(c) + 0.05 * abs(c["z"] - 6)) for c in tried]
    assert max(ranks) < len(prior) / 2
