"""Who takes part in a regime's final."""

from __future__ import annotations

from tuner.sweeps.finals.final import Finalist
from tuner.sweeps.start.plan import SweepPlan
from tuner.sweeps.trials.trial import RegimeState
from tuner.sweeps.variants import config_variant


def finalists_of(plan: SweepPlan, state: RegimeState) -> dict[str, Finalist]:
    """Config hash -> finalist: the leaders, the best on each workload, and the default if it has passed."""
    chosen = {leader.config_hash: leader for leader in state.leaders}
    for specialist in state.specialists.values():
        chosen.setdefault(specialist.config_hash, specialist)
    if state.default is not None:
        chosen.setdefault(state.default_hash, state.default)
    space = plan.space.at(state.regime.sizes.values())
    finalists = {}
    for config_hash, leader in chosen.items():
        variant = config_variant(plan.definition["name"], space, leader.config)
        variant = variant if leader.artifact is None else variant.built(leader.artifact)
        changed = sum(leader.config[p.name] != space.default[p.name] for p in space.parameters)
        finalists[config_hash] = Finalist(variant, leader.config, (changed, config_hash), leader.mode)
    return finalists
