"""Where sizes of one regime need different winners: a regime in which the guard refuses the fastest is divided.

The bounds of regimes are chosen before anything is measured. A config that is best for a regime, but slower than the
default at some of its sizes, may still serve the others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from tuner.sweeps.finals.final import FinalResult
from tuner.sweeps.finals.guard import Guard
from tuner.sweeps.finals.ranking import rank
from tuner.sweeps.finals.statistics import Rounds, compare
from tuner.sweeps.regimes import Regime

_MIN_GAIN = 0.01
"""How much faster a part must be with a winner of its own, so that a dispatch table does not grow for nothing."""

Part = tuple[Regime, FinalResult]


def divided(regime: Regime, final: FinalResult, guard: Guard, elsewhere: Collection[str] = ()) -> list[Part]:
    """The regime, or its parts by size, each with its winner, if the guard refused a faster config than the regime's.

    A part has a winner of its own only if that is known to be faster there than the winner of the whole regime. Nothing
    is measured: the finalists ran interleaved on all workloads of the regime.

    Args:
        regime: The regime.
        final: Of it, with the winner that the guard lets win.
        guard: What a winner must not be on any workload.
        elsewhere: Workloads that a neighbour's winner serves. They stay in their part, and decide nothing.
    """
    sizes = sorted({regime.sizes[w] for w in regime.workloads if w in regime.sizes and w not in elsewhere})
    best, gain = None, 0.0
    for below, above in itertools.pairwise(sizes if final.ranking.refused else ()):
        parts = _parts(regime, final, guard, elsewhere, max(below, math.isqrt(below * above)))
        found = sum(_gain(*part, final, elsewhere) for part in parts)
        if found > gain:
            best, gain = parts, found
    if best is None:
        return [(regime, final)]
    return [smaller for part in best for smaller in divided(*part, guard, elsewhere)]


def whole_of(part: Regime, regimes: Sequence[Regime]) -> Regime:
    """The regime that a part was cut from: its final, and the default in it, were for all of that one's sizes."""
    return next(regime for regime in regimes if part.workloads[0] in regime.workloads)


def _parts(regime: Regime, final: FinalResult, guard: Guard, elsewhere: Collection[str], bound: int) -> list[Part]:
    """The sizes up to a bound and those above it, each with the winner that the guard lets win there."""
    low = replace(regime, name=f"{regime.low}-{bound}", bound=bound)
    high = replace(
        regime, name=f"{bound + 1}+" if regime.bound is None else f"{bound + 1}-{regime.bound}", low=bound + 1
    )
    found: list[Part] = []
    for part in (low, high):
        members = tuple(w for w in regime.workloads if (regime.sizes[w] <= bound) == (part is low))
        rounds = _rounds(final, [w for w in members if w not in elsewhere])
        ranking = rank(rounds, final.simplicity, final.default, final.looks, regime.weights, guard)
        found.append(
            (
                replace(part, workloads=members, sizes={w: regime.sizes[w] for w in members}),
                replace(
                    final,
                    winner=ranking.winner,
                    ranking=ranking,
                    measurements={k: {w: by[w] for w in members} for k, by in final.measurements.items()},
                    usage=final.usage if part is low else {},
                ),
            )
        )
    return found


def _gain(regime: Regime, part: FinalResult, whole: FinalResult, elsewhere: Collection[str]) -> float:
    """How much faster a part is with its winner than with that of the whole regime: the sum over its workloads of the
    logarithms of the ratio, by weight; 0 if that is not known, or too little."""
    if part.winner == whole.winner:
        return 0.0
    served = [w for w in regime.workloads if w not in elsewhere]
    rounds = _rounds(whole, served)
    # Each finalist and each bound is a question of its own, for two parts.
    questions = 2 * len(whole.measurements) * len(whole.measurements[whole.winner])
    ratio = compare(rounds[part.winner], rounds[whole.winner], 1 - 0.05 / questions, regime.weights)
    if ratio.verdict != "faster" or ratio.ratio > 1 - _MIN_GAIN:
        return 0.0
    return -math.log(ratio.ratio) * sum(regime.weights.get(w, 1.0) for w in served)


def _rounds(final: FinalResult, workloads: Sequence[str]) -> Mapping[str, Rounds]:
    return {k: {w: by[w].samples_us for w in workloads} for k, by in final.measurements.items()}
