"""Which winner serves a size: bounds of the table of a Solution, and that it never disagrees with the lookup."""

import random
from dataclasses import replace

import pytest

from db.records import WinnerRecord, WinnerWorkload
from search_spaces.parameters import Parameter, SpaceError
from search_spaces.space import SearchSpace, Start
from tests.tuner import toy
from tuner.errors import NothingFoundError, UsageError
from tuner.results.dispatch import choose, dispatch_table
from tuner.results.export import winners_table
from tuner.settings import load
from tuner.sweeps.finals.winners import with_unfit_sizes
from tuner.sweeps.regimes import NEAREST_LIMIT, split
from tuner.sweeps.setup import resolve

DEFAULT = {"tile": 0}
TODAY = [(None, DEFAULT)]


def winner(tile: int, low: int | None, high: int | None, *sizes: int, axis: str | None = "n") -> WinnerRecord:
    """The config {"tile": tile} for a regime that was measured at these sizes; workloads have another axis too."""
    name = f"{low}-{high}"
    loads = tuple(WinnerWorkload(f"{name}:{s}", 1.0, 0.9, 1.1, 2.0, {"n": s, "heads": 7 * s + 1}) for s in sizes)
    return WinnerRecord(
        name, f"hash{tile}", 1.0, 0.9, 1.1, 2.0, workloads=loads, config={"tile": tile},
        size_axis=axis, min_size=low, max_size=high,
    )  # fmt: skip


def select(table, size):
    """As the generated config.py does."""
    return next(config for bound, config in table if bound is None or size <= bound)


def space(size_axis: str | None = "n") -> SearchSpace:
    return SearchSpace(
        "k", "cpu", (Parameter("tile", (0, 1, 2, 3)),), (), DEFAULT, {"main.py": ""}, size_axis=size_axis
    )


def read_space(folder, data) -> SearchSpace:
    """The space of a folder for the definition of a toy dataset."""
    return resolve(load({"dataset": data, "space": str(folder), "definition": "a", "target": "cpu"})).space()


def test_bounds_are_where_regimes_end_and_where_the_measured_sizes_are_too_far():
    winners = [winner(1, 0, 16, 8), winner(2, 17, 256, 20, 200), winner(3, 257, None, 300)]
    assert dispatch_table(winners, TODAY) == [
        (16, {"tile": 1}),
        (256, {"tile": 2}),
        (1200, {"tile": 3}),
        (None, DEFAULT),
    ]


def test_below_the_first_regime_the_default_holds_too():
    """The only workload has 300 rows: at 8 rows nobody knows the winner to work."""
    assert dispatch_table([winner(1, 257, None, 300)], TODAY) == [(74, DEFAULT), (1200, {"tile": 1}), (None, DEFAULT)]


def test_between_regimes_without_workloads_the_nearest_measured_size_decides():
    winners = [winner(1, 0, 16, 10), winner(2, 257, None, 1000)]
    assert dispatch_table(winners, TODAY) == [
        (40, {"tile": 1}), (249, DEFAULT), (4000, {"tile": 2}), (None, DEFAULT)
    ]  # fmt: skip
    # 257 belongs to a regime that was searched, though its only workload is far; 256 belongs to none.
    winners = [winner(1, 0, 16, 10), winner(2, 257, None, 5000)]
    assert dispatch_table(winners, TODAY)[1:3] == [(256, DEFAULT), (20_000, {"tile": 2})]
    winners = [winner(1, 0, 16, 16), winner(2, 33, None, 64)]
    assert dispatch_table(winners, TODAY)[0] == (32, {"tile": 1})  # 32 is twice 16 and half of 64: the smaller one's


def test_neighbours_with_the_same_config_are_one_row():
    winners = [winner(1, 0, 16, 8), winner(1, 17, 256, 20), winner(0, 257, None, 300)]
    assert dispatch_table(winners, TODAY) == [(256, {"tile": 1}), (None, DEFAULT)]


def test_a_default_that_fails_is_never_chosen():
    winners = [winner(1, 0, 16, 10), replace(winner(2, 257, None, 1000), default_median_us=None)]
    assert winners_table(winners, space(), 1) == [(100, {"tile": 1}), (None, {"tile": 2})]


def test_far_sizes_have_the_default_that_runs_there_today():
    """Not that of the first row, which may not even fit there."""
    today = replace(
        space(), defaults=(Start({"tile": 0}, 0, 50), Start({"tile": 3}, 51, 5000), Start({"tile": 2}, 5001))
    )
    table = winners_table([winner(1, 65, None, 100)], today, 1)
    assert table == [(24, {"tile": 0}), (400, {"tile": 1}), (5000, {"tile": 3}), (None, {"tile": 2})]


def test_without_a_size_axis_one_config_serves_all_sizes():
    (regime,) = split({"a": None, "b": None})
    assert dispatch_table([winner(2, regime.low, regime.bound, axis=None)], TODAY) == [(None, {"tile": 2})]


@pytest.mark.parametrize("seed", range(20))
def test_the_table_says_what_the_lookup_says_at_every_size(seed):
    rng = random.Random(seed)
    sizes = {f"w{i}": int(2 ** rng.uniform(0, 9)) - rng.randint(0, 1) for i in range(rng.randint(1, 8))}
    bounds = sorted(rng.sample(range(1, 400), rng.randint(1, 4)))
    winners = [
        winner(rng.randint(0, 3), r.low, r.bound, *(sizes[w] for w in r.workloads)) for r in split(sizes, bounds)
    ]
    if seed % 2:
        first, last = sorted((rng.randint(1, 300), rng.randint(1, 300)))
        ends = rng.choice((last, None))
        winners = [replace(w, unfit_sizes=((first, ends),)) if rng.random() < 0.5 else w for w in winners]
    table = dispatch_table(winners, TODAY)
    bounds_of = [b for b, _ in table]
    assert bounds_of == [*sorted({b for b in bounds_of if b is not None}), None]
    for size in range(int(max(sizes.values()) * NEAREST_LIMIT) + 10):
        chosen = choose(winners, size)
        assert select(table, size) == (DEFAULT if chosen is None else chosen.config), (size, sizes, bounds)
    assert select(table, 10**9) == DEFAULT


def test_what_an_export_makes_of_a_sweep():
    good = [winner(1, 0, 16, 8), winner(2, 17, None, 100)]
    table = winners_table(good, space(), 1)
    assert table == [(16, {"tile": 1}), (400, {"tile": 2}), (None, DEFAULT)]
    scope: dict = {}
    exec(space().render(table)["config.py"], scope)
    assert [scope["select"](n)["tile"] for n in (0, 16, 17, 400, 401)] == [1, 1, 2, 2, 0]
    with pytest.raises(NothingFoundError, match="sweep 7 has no winner"):
        winners_table([], space(), 7)
    with pytest.raises(UsageError, match="sweep 7 chose its winners by n, space 'k' now dispatches by rows"):
        winners_table(good, space("rows"), 7)
    with pytest.raises(UsageError, match="now dispatches by none"):
        winners_table(good, space(None), 7)


def test_a_table_without_a_last_row_is_refused():
    with pytest.raises(SpaceError, match="ends with the bound None"):
        space().render([(16, DEFAULT)])


def test_a_config_is_not_used_where_its_space_forbids_it(tmp_path):
    """Measured at 64 and 100, so by the rule of the nearest size up to 400; but the kernel is wrong beyond 128."""
    folder = toy.kernel(
        tmp_path, size="x.shape[0]", size_axis="n",
        constraints=[{"expression": "step == 1 or sizes.n * step <= 512", "reason": "fits"}],
    )  # fmt: skip
    kernel = read_space(folder, toy.dataset(tmp_path / "d", [{"n": 8}]))
    won = replace(winner(4, 17, None, 64, 100), config={"step": 4})
    found = with_unfit_sizes(won, kernel, {w.workload: w.axes["n"] for w in won.workloads})
    assert found.unfit_sizes == ((129, None),)
    assert [choose([found], size) is not None for size in (100, 128, 129, 400)] == [True, True, False, False]
    assert winners_table([found], kernel, 1) == [(15, {"step": 1}), (128, {"step": 4}), (None, {"step": 1})]
    anywhere = replace(won, config={"step": 1})
    assert with_unfit_sizes(anywhere, kernel, {w.workload: w.axes["n"] for w in won.workloads}) == anywhere
    nothing_else = [replace(found, default_median_us=None)]
    assert winners_table(nothing_else, kernel, 1) == [(None, {"step": 4})], "something has to serve the size"


def test_sizes_within_a_regime_at_which_its_winner_must_not_be_used_have_none():
    hole = replace(winner(1, 0, 16, 8), unfit_sizes=((3, 4),))
    assert [choose([hole], size) is None for size in (2, 3, 4, 5)] == [False, True, True, False]
    assert dispatch_table([hole], TODAY) == [(2, {"tile": 1}), (4, DEFAULT), (32, {"tile": 1}), (None, DEFAULT)]


def test_where_the_nearest_winner_must_not_be_used_the_next_ones_share_its_sizes():
    """Half way was looked for between neighbours alone: the table took the last config already from 16 up."""
    between = replace(winner(2, 9, 40, 30), unfit_sizes=((9, 29), (31, 40)))
    winners = [winner(1, 0, 8, 6), between, winner(3, 41, None, 64)]
    first, second, third = ({"tile": tile} for tile in (1, 2, 3))
    wanted = [(19, first), (29, third), (30, second), (256, third), (None, DEFAULT)]
    assert dispatch_table(winners, TODAY) == wanted
    assert [choose(winners, size).config for size in (19, 20, 30, 31)] == [first, third, second, third]


def test_a_config_that_fits_every_16th_size_is_known_to_fit_where_it_was_measured(tmp_path):
    rule = {"expression": "step == 1 or sizes.n % 16 == 0", "reason": "whole tiles"}
    folder = toy.kernel(tmp_path, size="x.shape[0]", size_axis="n", constraints=[rule])
    kernel = read_space(folder, toy.dataset(tmp_path / "d", [{"n": 8}]))
    sizes = {"n:16": 16, "n:4096": 4096}
    won = replace(winner(2, 1, None, 16, 4096), config={"step": 2})
    found = with_unfit_sizes(won, kernel, dict(zip([w.workload for w in won.workloads], sizes.values(), strict=True)))
    assert found.unfit_sizes == ((1, 15), (17, 4095), (4097, None))


def test_among_millions_of_sizes_a_config_is_known_to_fit_where_it_was_measured(tmp_path):
    """Asking at every size took 4 us each: minutes after the last measurement of an axis of elements."""
    rule = {"expression": "step == 1 or sizes.n >= 1024", "reason": "fits"}
    folder = toy.kernel(tmp_path, size="x.shape[0]", size_axis="n", constraints=[rule])
    kernel = read_space(folder, toy.dataset(tmp_path / "d", [{"n": 8}]))
    won = replace(winner(2, 1, None, 4096, 1 << 24), config={"step": 2})
    found = with_unfit_sizes(won, kernel, {w.workload: w.axes["n"] for w in won.workloads})
    assert found.unfit_sizes == ((1, 4095), (4097, (1 << 24) - 1), ((1 << 24) + 1, None))
    free = replace(kernel, constraints=())
    assert with_unfit_sizes(won, free, {w.workload: w.axes["n"] for w in won.workloads}).unfit_sizes == ()
