"""Which variants the campaign measures: 24 for the comparison with stock flashinfer-bench, 150 beside the faults."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace

from benchmarks.gpu_sweep.context import ROOT, Context
from benchmarks.gpu_sweep.faults import faulty
from db.records import WinnerRecord
from db.store import Store
from search_spaces import Config
from search_spaces.parameters import SpaceError
from search_spaces.sample_spread import spread
from tuner.results.export import winners_table
from tuner.search import Search
from tuner.sweeps.regimes import DEFAULT_BOUNDS, split
from tuner.sweeps.start.head_start import sweep_seed
from tuner.sweeps.variants import config_variant, solution_variant
from workers.records import Variant

WRONG = ("wrong_result", "nan", "exception")
"""Faults that stock flashinfer-bench has a status for and survives."""
HAND_PICKED = ROOT / "benchmarks" / "h200_moe" / "campaign.json"


def of_configs(context: Context, configs: Iterable[Config]) -> list[Variant]:
    """One variant for each config, under its hash."""
    space = context.space
    return [config_variant(context.definition, space, c) for c in configs]


def good(context: Context, count: int, *, built: Iterable[Config] = ()) -> list[Config]:
    """Valid configs: hand-picked ones first, then those that are built already, then a spread sample."""
    space = context.space
    picked = [{**space.default, **c} for c in json.loads(HAND_PICKED.read_text())] if context.target != "cpu" else []
    chosen: dict[str, Config] = {}
    for config in (*picked, *built):
        if _is_valid(context, config):
            chosen.setdefault(space.config_hash(config), config)
    for config in spread(space, count, seed=0) if len(chosen) < count else ():
        if _is_valid(context, config):
            chosen.setdefault(space.config_hash(config), config)
    return list(chosen.values())[:count]


def asked_at_random(context: Context, seed: int) -> list[Config]:
    """What ``tuner sweep --sampler random --seed SEED`` will ask for: it depends on no result. The space's starts come
    first, as they do there."""
    regimes = split(context.sizes(), DEFAULT_BOUNDS)
    starts = (dict(start.config) for start in context.space.starts)
    found: dict[str, Config] = {context.space.config_hash(config): config for config in starts}
    for index in range(len(regimes)):
        search = Search(context.space, sampler="random", seed=sweep_seed(seed, index))
        for _ in range(-(-context.busy_trials // len(regimes))):
            proposal = search.ask()
            if proposal is not None:
                found[context.space.config_hash(proposal.config)] = proposal.config
    return list(found.values())


def _is_valid(context: Context, config: Config) -> bool:
    """Whether the space still has such a config."""
    try:
        return context.space.violation(context.space.check(config)) is None
    except SpaceError:
        return False


def compared(context: Context) -> list[Variant]:
    """Good variants, and one of each wrong Solution that stock flashinfer-bench has a verdict for; always the same."""
    right = of_configs(context, good(context, context.compared - len(WRONG)))
    return [*right, *(replace(faulty(right[0], kind), key=f"planted_{kind}") for kind in WRONG)]


def _winners(context: Context, sweep: str) -> list[WinnerRecord]:
    if not context.database(sweep).exists():
        return []
    store = Store.open(f"sqlite:///{context.database(sweep)}")
    try:
        return list(store.winners.of(1))
    finally:
        store.close()


def tuned(context: Context, sweep: str) -> Variant | None:
    """What a sweep exports, whether or not it got as far as that; None without winners."""
    winners = _winners(context, sweep)
    if not winners:
        return None
    return solution_variant(
        context.definition, context.space, winners_table(winners, context.space, 1), f"tuned_{sweep}"
    )


def single_configs(context: Context, sweep: str) -> dict[str, Variant]:
    """The winner of each regime as a Solution of its own: what one config for all sizes would give."""
    singles: dict[str, Variant] = {}
    for winner in _winners(context, sweep):
        name = f"single_{winner.regime}"
        singles[name] = solution_variant(context.definition, context.space, [(None, dict(winner.config))], name)
    return singles
