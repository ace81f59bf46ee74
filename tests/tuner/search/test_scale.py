"""What a search keeps and costs when it goes on for long: shown by counts, not by clocks."""

import random
import tracemalloc
from collections import Counter

import numpy as np

from search_spaces.parameters import Constraint, Parameter
from search_spaces.space import SearchSpace
from tuner.search import Search
from tuner.search.config_table import SAMPLE_START, ConfigTable
from tuner.search.gaussian_process.encoding import Encoding
from tuner.search.gaussian_process.features import MOST_CORNERS, Features


def make_space(*parameters, constraints=()):
    return SearchSpace("s", "cpu", parameters, tuple(constraints), {p.name: p.values[0] for p in parameters}, {})


WIDE = tuple(Parameter(f"p{i}", tuple(range(8))) for i in range(8))


def test_a_category_of_thousands_of_values_does_not_fill_the_memory():
    features = Features.of(Encoding(make_space(Parameter("salt", tuple(range(9000)), "categorical"))))
    columns = features(np.arange(9000, dtype=np.int16)[:, None])
    assert columns.shape == (9000, MOST_CORNERS)
    some = columns[:400]
    apart = np.linalg.norm(some[:, None] - some[None], axis=2)[np.triu_indices(400, 1)]
    assert apart.min() > 0.6
    assert apart.max() < 1.4


def test_a_trial_of_a_long_search_costs_less_than_two_kilobytes():
    search = Search(make_space(*WIDE), sampler="random", seed=1)

    def trials(count):
        for _ in range(count):
            proposal = search.ask()
            search.tell(proposal.number, 1.0, detail="PASSED")

    trials(100)
    tracemalloc.start()
    trials(400)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / 400 < 2048
    assert len(search.study.trials) == 500


def test_rows_keep_their_place_and_state_while_a_table_grows():
    table = ConfigTable.of(make_space(*WIDE), random.Random(0))
    before = table.points.copy()
    table.take(5)
    walk, rng = make_space(*WIDE).walk, random.Random(1)
    points = [walk.sample(rng) for _ in range(3 * len(before))]
    rows = [table.add([p])[0] for p in points]
    assert (table.points[: len(before)] == before).all()
    assert [tuple(table.points[r].tolist()) for r in rows] == points
    assert table.taken.nonzero()[0].tolist() == [5]
    assert len(table.points) == len(table.taken) == len(table.rows)


def test_a_table_forgets_what_is_free_and_not_wanted_and_uses_the_rows_again():
    table = ConfigTable.of(make_space(*WIDE), random.Random(0))
    table.take(3)
    kept = np.arange(10)
    points = table.points[:10].copy()
    dropped = tuple(table.points[50].tolist())
    count = len(table.points)
    table.forget_all_free_but(kept)
    assert (table.points[:10] == points).all()
    assert table.free().tolist() == [0, 1, 2, *range(4, 10)]
    assert len(table.rows) == 10
    (row,) = table.add([dropped])
    assert 10 <= row < count == len(table.points)
    assert tuple(table.points[row].tolist()) == dropped
    assert row in table.free()


def test_a_complete_table_forgets_nothing():
    table = ConfigTable.of(make_space(*WIDE[:2]), random.Random(0))
    table.forget_all_free_but(np.arange(3))
    assert len(table.free()) == len(table.rows) == 64


def test_the_default_strategy_keeps_what_it_tried_and_a_bounded_rest():
    search = Search(make_space(*WIDE), seed=1)
    most = 0
    for number in range(100):
        proposal = search.ask()
        search.tell(proposal.number, float(sum(proposal.config.values())) if number % 7 else None)
        most = max(most, len(search._table.rows))
    options = search._sampler.options
    neighbours = options.leaders * sum(len(p.values) - 1 for p in WIDE)
    assert most <= 100 + SAMPLE_START + options.fresh + neighbours
    assert len(search._table.rows) <= 100 + options.sample_limit + options.fresh + neighbours


def test_what_a_constraint_said_is_asked_once_and_holds_for_every_descent():
    asked = Counter()

    def small(config):
        asked[config["p0"], config["p1"]] += 1
        return config["p0"] + config["p1"] < 9

    space = make_space(*WIDE, constraints=[Constraint(("p0", "p1"), "too large", small)])
    asked.clear()
    walk, rng = space.walk, random.Random(0)
    points = [walk.sample(rng) for _ in range(500)]
    assert all(p[0] + p[1] < 9 for p in points)
    assert len({p[:2] for p in points}) > 40
    assert max(asked.values()) == 1
