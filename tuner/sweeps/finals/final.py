"""Finals: the best configs of a regime and the default, measured again, interleaved, until the ranking is settled."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from search_spaces import Config
from search_spaces.inputs.generator import RECORDED
from tuner.progress import Steps
from tuner.sweeps.finals.guard import Guard
from tuner.sweeps.finals.ranking import Ranking, rank
from tuner.sweeps.regimes import Regime
from workers.judge.timing.interval import measured
from workers.records import BuiltVariant, Comparison, ComparisonJob, Measurement, Method, Status, Variant
from workers.runner import Arrived, Runner

ROUNDS_PER_LOOK = 12


@dataclass(frozen=True)
class Finalist:
    """A config that takes part in the final. ``simplicity`` breaks ties; smaller is simpler.

    The variant is a BuiltVariant where this process has built it.
    """

    variant: Variant
    config: Config
    simplicity: tuple
    mode: str = ""
    """The mode that it was timed in."""

    @property
    def is_built(self) -> bool:
        """Whether this process has built it."""
        return isinstance(self.variant, BuiltVariant)


@dataclass(frozen=True)
class FinalResult:
    """The winner of a regime, and how certain it is.

    ``measurements`` holds, for each finalist (by config hash), one paired measurement per workload: sample i of each
    belongs to the same round.
    """

    winner: str
    default: str | None
    ranking: Ranking
    configs: Mapping[str, Config]
    measurements: Mapping[str, Mapping[str, Measurement]]
    rounds: int
    dropped: Mapping[str, str] = field(default_factory=dict)
    usage: Mapping[str, float] = field(default_factory=dict)
    """Where the evaluator's time went, as in :class:`workers.records.Comparison`."""
    by_profile: Mapping[str, Ranking] = field(default_factory=dict)
    """Profile -> who would win on its workloads alone; empty where all workloads have the same profile."""
    built: Mapping[str, BuiltVariant] = field(default_factory=dict)
    """The finalists, as they were measured."""
    looks: int = 1
    """How often it could have looked at the ranking, which every look's confidence depends on."""
    simplicity: Mapping[str, tuple] = field(default_factory=dict)

    @property
    def mode(self) -> str:
        """The mode in which all finalists were timed."""
        return next(m.method.mode for m in self.measurements[self.winner].values())


def run_final(
    runner: Runner,
    finalists: Mapping[str, Finalist],
    regime: Regime,
    *,
    default: str,
    method: Method,
    max_rounds: int,
    deadline: float,
    seed: int,
    tick: Callable[[], None] = lambda: None,
    steps: Steps | None = None,
    others: Arrived | None = None,
) -> FinalResult | None:
    """Measure the finalists against each other. The guard comes later (:func:`guarded`), when bounds are known.

    Stops when the ranking is settled, after ``max_rounds``, or past ``deadline`` (of ``time.monotonic``); at least
    one look is always taken. A finalist that fails now is dropped. What else is in flight goes to ``others``; no build
    may be, unless all finalists are built.

    Returns:
        None if no finalist survives.
    """
    steps = steps or Steps()
    steps.step(f"final of {regime.name}: building {len(finalists)} configs")
    built = _built(runner, finalists, tick)
    dropped = {k: "could not be built again" for k in finalists if k not in built}
    alive = list(built)
    rounds: dict[str, dict[str, list[float]]] = {}
    looks = max(1, max_rounds // ROUNDS_PER_LOOK)
    ranking: Ranking | None = None
    usage: list[Mapping[str, float]] = []
    conditions: dict[tuple[str, str], Mapping[str, Any]] = {}
    done = 0
    for look in range(looks):
        if ranking is not None and (ranking.settled or time.monotonic() > deadline):
            break
        variants = tuple(built[k] for k in alive)
        what = (
            f"{len(alive)} configs on {len(regime.workloads)} workloads, rounds {done + 1} to {done + ROUNDS_PER_LOOK}"
        )
        steps.step(f"final of {regime.name}: {what} of at most {looks * ROUNDS_PER_LOOK}")
        job = ComparisonJob(variants, regime.workloads, interleaved(method), ROUNDS_PER_LOOK, seed * 1000 + look)
        comparison = runner.compared(job, tick, others)
        samples, failed = samples_and_failures(comparison)
        usage.append(comparison.usage)
        conditions |= {(e.key, m.workload): m.conditions for e in comparison.evaluations for m in e.measurements}
        if failed:
            dropped |= failed
            alive = [k for k in alive if k not in failed]
            rounds = {k: v for k, v in rounds.items() if k in alive}
            samples = {k: v for k, v in samples.items() if k in alive}
        if not alive:
            return None
        for key, by_workload in samples.items():
            for workload, values in by_workload.items():
                rounds.setdefault(key, {}).setdefault(workload, []).extend(values)
        done += ROUNDS_PER_LOOK
        simplicity = {k: finalists[k].simplicity for k in alive}
        ranking = rank(rounds, simplicity, default if default in alive else None, looks, regime.weights)
    if ranking is None:
        return None
    return FinalResult(
        winner=ranking.winner,
        default=default if default in alive else None,
        ranking=ranking,
        configs={k: finalists[k].config for k in alive},
        # All rounds of a finalist; the conditions are those of its last look.
        measurements={
            k: {w: measured(w, us, interleaved(method), conditions.get((k, w), {})) for w, us in rounds[k].items()}
            for k in alive
        },
        rounds=done,
        looks=looks,
        dropped=dropped,
        usage=summed(usage),
        built={k: built[k] for k in alive},
        simplicity={k: finalists[k].simplicity for k in alive},
    )


def guarded(final: FinalResult, regime: Regime, guard: Guard, elsewhere: Collection[str] = ()) -> FinalResult:
    """The final with the winner that the guard lets win, and with the winners on each profile's workloads.

    Args:
        final: Of the regime.
        regime: The regime.
        guard: What a winner must not be on any workload.
        elsewhere: Workloads that a neighbour's winner serves, so that this one's figures there do not matter. Winners
            of single profiles keep the regime's own bounds, so they are judged on all its workloads.
    """
    served = [w for w in regime.workloads if w not in elsewhere]

    def ranked(workloads: Collection[str]) -> Ranking:
        part = {k: {w: by[w].samples_us for w in workloads} for k, by in final.measurements.items()}
        return rank(part, final.simplicity, final.default, final.looks, regime.weights, guard)

    profiles = dict.fromkeys(regime.profiles.get(w, RECORDED) for w in regime.workloads)
    alone = {name: ranked(regime.of_profile(name)) for name in profiles} if len(profiles) > 1 else {}
    ranking = ranked(served)
    return replace(final, winner=ranking.winner, ranking=ranking, by_profile=alone)


def _built(runner: Runner, finalists: Mapping[str, Finalist], tick: Callable[[], None]) -> dict[str, BuiltVariant]:
    """The finalists, built. Those that this process has not built are built now, usually from the cache."""
    ready = {k: f.variant for k, f in finalists.items() if isinstance(f.variant, BuiltVariant)}
    builds = runner.built((f.variant for k, f in finalists.items() if k not in ready), tick)
    ready |= {k: finalists[k].variant.built(b.artifact) for k, b in builds.items() if b.artifact is not None}
    return {k: ready[k] for k in finalists if k in ready}


def samples_and_failures(comparison: Comparison) -> tuple[dict[str, dict[str, list[float]]], dict[str, str]]:
    """Samples by variant and workload of those that passed, and messages of those that did not."""
    samples: dict[str, dict[str, list[float]]] = {}
    failed: dict[str, str] = {}
    for evaluation in comparison.evaluations:
        if evaluation.status is Status.PASSED:
            # Rounded as they are stored, so that ranking the stored samples gives the same winner even in a tie.
            kept = {m.workload: np.asarray(m.samples_us, np.float32).tolist() for m in evaluation.measurements}
            samples[evaluation.key] = kept
        else:
            failed[evaluation.key] = f"{evaluation.status}: {evaluation.message}"
    return samples, failed


def summed(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The sum of several mappings, key by key."""
    found: dict[str, float] = {}
    for part in parts:
        for key, value in part.items():
            found[key] = found.get(key, 0.0) + value
    return found


def interleaved(method: Method) -> Method:
    """The method of measurements in finals, which are never mixed with those of the search."""
    return replace(method, min_samples=ROUNDS_PER_LOOK, max_samples=ROUNDS_PER_LOOK, interleaved=True)
