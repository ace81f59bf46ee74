"""A sweep's head start: while evaluators make the workloads, searches are asked and builders build.

Evaluators on a GPU take up to half a minute until they can judge. A search needs no result for its first proposals, and
the sweep's process, which makes them one after the other, has nothing else to do meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from search_spaces import Config
from tuner.search import Proposal, Search
from tuner.search.beside import introduce
from tuner.search.expectation import Expect
from tuner.sweeps.regimes import Regime
from tuner.sweeps.start.plan import SweepPlan
from tuner.sweeps.variants import config_variant
from workers.fib.adapter import reference_variant
from workers.runner import Runner

PROPOSALS = 6
"""Proposals of each regime that are made ahead: as many as ``auto`` makes before it learns from results."""
SPREAD = 3
"""The first of them, which are spread over the space: builders build these while each search finds out what its model
expects to be fast, which takes a second or two."""


@dataclass(frozen=True)
class HeadStart:
    """What was done before the workloads were there.

    Args:
        regimes: The regimes that it was done for.
        searches: The search of each.
        proposals: What each has proposed and no trial has taken up yet.
        building: Keys of the variants that builders were given.
    """

    regimes: tuple[Regime, ...]
    searches: tuple[Search, ...]
    proposals: tuple[deque[Proposal], ...]
    building: frozenset[str] = field(default_factory=frozenset)

    def of(self, regimes: Sequence[Regime]) -> bool:
        """Whether it was done for these: a workload that cannot be judged changes its regime."""
        return self.regimes == tuple(regimes)

    def expect(self, expect: Mapping[str, Expect]) -> None:
        """Let the searches know what is expected now that the workloads are there, by regime."""
        for regime, search in zip(self.regimes, self.searches, strict=True):
            if regime.name in expect:
                search.expect(expect[regime.name])


def sweep_seed(seed: int, regime: int) -> int:
    """Seed of a regime's search: regimes of one sweep must not draw the same random numbers."""
    return seed * 1009 + regime


def searches(plan: SweepPlan, again: Mapping[str, Sequence[Config]] | None = None) -> tuple[Search, ...]:
    """The search of each regime, which learn from each other.

    Args:
        plan: The sweep's.
        again: Regime name -> configs of earlier processes that are to be tried again.
    """
    made = []
    for index, regime in enumerate(plan.regimes):
        first = (again or {}).get(regime.name, ())
        made.append(
            Search(
                plan.space.at(regime.sizes.values()),
                sampler=plan.settings.sampler,
                seed=sweep_seed(plan.settings.seed, index),
                warm_start=(*first, *plan.warm_start.get(regime.name, ())),
                prior=plan.prior.get(regime.name, ()),
                expect=plan.expect.get(regime.name),
            )
        )
    introduce(made, [regime.sizes.values() for regime in plan.regimes])
    return tuple(made)


def taken_up(
    ahead: HeadStart | None, plan: SweepPlan, again: Mapping[str, Sequence[Config]] | None = None
) -> HeadStart:
    """What a sweep begins with: its head start, as long as it was for the same regimes, with what is expected now.

    Args:
        ahead: What was done ahead, if anything was.
        plan: The sweep's, now that the workloads are there.
        again: See :func:`searches`.
    """
    if ahead is not None and ahead.of(plan.regimes):
        ahead.expect(plan.expect)
        return ahead
    made = searches(plan, again)
    return HeadStart(plan.regimes, made, tuple(deque[Proposal]() for _ in made))


def head_start(plan: SweepPlan, runner: Runner) -> HeadStart:
    """Ask the searches for their first proposals, in turns, and have those built; waits for nothing. The reference is
    the first that is built: behind dozens of candidates it would be timed last, or not at all.

    Args:
        plan: The sweep's, with what is expected of its workloads as far as that is known.
        runner: Its runner, in which nothing is in flight.
    """
    if plan.time_reference:
        runner.submit_build(reference_variant(plan.definition, plan.space.target))
    made = searches(replace(plan, expect={}))
    proposals = tuple(deque[Proposal]() for _ in made)
    left = PROPOSALS * len(made) if plan.settings.max_trials == "auto" else plan.settings.max_trials
    building: set[str] = set()
    for turn in range(PROPOSALS):
        for regime, search, own in zip(plan.regimes, made, proposals, strict=True):
            if turn == SPREAD and regime.name in plan.expect:
                search.expect(plan.expect[regime.name])
            proposal = search.ask() if left > 0 else None
            if proposal is None:
                continue
            left -= 1
            own.append(proposal)
            variant = config_variant(plan.definition["name"], plan.space, proposal.config)
            if variant.key not in building:
                building.add(variant.key)
                runner.submit_build(variant)
    return HeadStart(plan.regimes, made, proposals, frozenset(building))
