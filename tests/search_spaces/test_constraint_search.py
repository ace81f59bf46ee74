"""Walks: nothing valid left out, nothing invalid let in, however sparse the space."""

import random
import time

import pytest

from search_spaces import constraint_search
from search_spaces.constraint_search import Effort, TooSparseError
from search_spaces.expression import compile_expression
from search_spaces.parameters import Constraint, Parameter, SpaceError
from search_spaces.sample_spread import spread
from search_spaces.space import SearchSpace
from tuner.search import Search
from tuner.search import config_table as table_module


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
    walk = space.walk
    names = list(space.by_name)
    expected = [tuple(c[n] for n in names) for c in space.enumerate()]
    assert walk.all(len(expected), Effort()) == expected
    assert walk.all(len(expected) - 1, Effort()) is None
    assert walk.all(len(expected), Effort(checks=50)) is None


def test_samples_are_valid_and_reach_every_config():
    space = chain(3)
    walk = space.walk
    rng = random.Random(0)
    seen = {walk.sample(rng) for _ in range(2000)}
    assert seen == set(walk.all(10**4, Effort()))


def test_a_needle_is_found_and_an_empty_space_is_an_error():
    everything = ("p0", "p1", "p2", "p3")
    needle = make_space(
        4, (Constraint(everything, "one only", lambda c: sum(c.values()) == 36),), dict.fromkeys(everything, 9)
    )
    assert needle.walk.sample(random.Random(0)) == (9, 9, 9, 9)
    allowed = [True]
    empty = make_space(2, (Constraint(("p0",), "closed", lambda c: allowed[0]),), {"p0": 0, "p1": 0})
    allowed[0] = False
    with pytest.raises(SpaceError, match="no config satisfies"):
        empty.walk.sample(random.Random(0))


def test_the_size_estimate_is_right_on_average():
    space = chain(5)
    exact = len(list(space.enumerate()))
    assert space.walk.size(random.Random(0)) == pytest.approx(exact, rel=0.2)


@pytest.mark.parametrize("sampler", ["auto", "tpe", "random", "grid"])
def test_a_space_too_large_to_list_is_searched_without_repeats_and_to_its_end(sampler, monkeypatch):
    monkeypatch.setattr(table_module, "LIST_LIMIT", 5)
    monkeypatch.setattr(table_module, "SAMPLE_START", 12)
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


def sparse_space(kind):
    """Constraints that can only be decided at the last parameter, and leave hardly anything."""
    if kind == "product":
        names, values = [f"t{i}" for i in range(8)], (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
        default = dict(zip(names, (2, 2, 2, 3, 4, 4, 4, 8), strict=True))
        text = f"{' * '.join(names)} == 12288"
    else:
        rng = random.Random(3)
        weights = [rng.randint(10**6, 10**7) for _ in range(28)]
        names, values = [f"b{i:02}" for i in range(28)], (False, True)
        default = {name: i % 2 == 0 for i, name in enumerate(names)}
        total = sum(w for w, name in zip(weights, names, strict=True) if default[name])
        text = " + ".join(f"({w} if {n} else 0)" for w, n in zip(weights, names, strict=True)) + f" == {total}"
    if kind == "few":
        default, text = dict.fromkeys(names, False), f"{' + '.join(names)} <= 3"
    if kind == "odd weights":  # powers of two: the default alone is valid
        text = (
            " + ".join(f"({2**i} if {n} else 0)" for i, n in enumerate(names)) + f" == {sum(4**i for i in range(14))}"
        )
    rule = Constraint(tuple(names), "fixed", compile_expression(text, names))
    parameters = tuple(Parameter(name, values) for name in names)
    return SearchSpace(kind, "cpu", parameters, (rule,), default, {})


@pytest.fixture(name="hurried")
def _hurried(monkeypatch):
    """A fraction of the effort: what is tested is that there is an end to it."""
    monkeypatch.setattr(Effort.__init__, "__defaults__", (50_000, 0.15))
    monkeypatch.setattr(table_module, "SPARSE_CPU_S", 0.15)


@pytest.mark.parametrize("sampler", ["auto", "grid"])
@pytest.mark.parametrize("kind", ["product", "few", "weights", "odd weights"])
def test_a_space_of_which_hardly_anything_is_valid_is_sampled_within_a_bound(kind, sampler, hurried, caplog):
    space = sparse_space(kind)
    began = time.thread_time()
    searches = [Search(space, sampler=sampler, seed=seed) for seed in range(2)]
    seen = set()
    for _ in range(12):
        proposal = searches[0].ask()
        if proposal is None:
            break
        assert space.is_valid(proposal.config)
        seen.add(space.config_hash(proposal.config))
        searches[0].tell(proposal.number, float(len(seen)))
    # Listing, sampling and the last look each stop at 0.15 s; the regimes' searches share the first look.
    assert time.thread_time() - began < 15
    assert space.config_hash(space.default) in seen
    assert len(seen) == (12 if kind in ("product", "few") else 1) or sampler == "grid"
    (remark,) = caplog.messages
    assert "hardly any combination is valid" in remark


@pytest.mark.parametrize("kind", ["product", "few"])
def test_where_descents_lead_nowhere_steps_from_the_default_lead_on(kind):
    walk, rng = sparse_space(kind).walk, random.Random(2)
    found = [walk.sample(rng)]
    while len(found) < 200:
        found.append(walk.sample(rng, last=found[-1]))
    assert walk.is_sparse
    assert len(set(found)) > 150
    assert all(len({point[i] for point in found}) > 1 for i in range(len(found[0])))
    apart = {walk.sample(rng) for _ in range(20)}
    assert len(apart) > 15


def test_steps_reach_every_config(monkeypatch):
    monkeypatch.setattr(constraint_search, "RESTARTS", 0)
    parameters = ("p0", "p1", "p2")
    rule = Constraint(parameters, "one sum", lambda c: sum(c.values()) == 9)
    walk = make_space(3, (rule,), {"p0": 9, "p1": 0, "p2": 0}).walk
    rng = random.Random(0)
    assert {walk.sample(rng) for _ in range(2000)} == set(walk.all(10**4, Effort()))


def test_a_sample_of_a_sparse_space_ends_too(hurried):
    assert [spread(sparse_space(kind), 5, 0)[0] for kind in ("weights", "odd weights")]
    assert len(spread(sparse_space("product"), 5, 0)) >= 2


def test_effort_ends_by_checks_and_by_time():
    assert [Effort(checks=10, cpu_s=60).spend(n) for n in (10, 11)] == [True, False]
    slow = Effort(checks=10**9, cpu_s=0.0)
    assert slow.spend(1)
    assert not slow.spend(1000)
    assert slow.used_up
    with pytest.raises(TooSparseError, match="no valid config found after"):
        sparse_space("odd weights").walk.sample(random.Random(0), Effort(checks=5000))
