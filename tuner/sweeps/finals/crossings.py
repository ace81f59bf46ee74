"""Where one regime's winner hands over to the next one's: found by measuring both on the sizes around the bound.

The bounds of regimes are chosen before anything is measured. After the finals the winners of neighbouring regimes run
interleaved on the measured sizes next to their bound, and the bound moves to where they cross.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from db.records import WinnerRecord, WinnerWorkload
from tuner.sweeps.finals.division import divided
from tuner.sweeps.finals.final import ROUNDS_PER_LOOK, FinalResult, guarded, interleaved, samples_and_failures
from tuner.sweeps.finals.guard import Guard
from tuner.sweeps.finals.statistics import Ratio, Rounds, compare, weighted_mean
from tuner.sweeps.regimes import Regime
from workers.judge.timing.interval import median_interval
from workers.records import ComparisonJob, Method
from workers.runner import Runner

SIZES_ON_EACH_SIDE = 4
"""Most measured sizes of each regime that are measured again."""

UNCHANGED = "no measured size changes hands"
"""The reason for a bound that moved at most between two measured sizes."""

MOST_REPEATS = 3
"""How often winners at bounds are measured, at most, until the guards change none of them any more."""


@dataclass(frozen=True)
class CurvePoint:
    """Both winners at one size: geometric means by weight in microseconds, and the lower one's over the upper one's."""

    size: int
    lower_us: float
    upper_us: float
    ratio: Ratio


@dataclass(frozen=True)
class Crossing:
    """The bound between two regimes.

    Args:
        lower: Name of the regime of smaller sizes; ``upper`` of the larger ones.
        was: The bound before: largest size of the lower regime.
        bound: The bound now.
        curve: Both winners at the sizes that were measured, by size.
        reason: Why it is there, one line.
        moved: Workload -> figures of the winner that now serves it, where that is not its own regime's.
    """

    lower: str
    upper: str
    was: int
    bound: int
    curve: tuple[CurvePoint, ...]
    reason: str
    moved: Mapping[str, WinnerWorkload]

    def document(self) -> dict[str, Any]:
        """For the record: without the figures that stand with the winners."""
        document = asdict(self)
        document["moved"] = sorted(self.moved)
        return document


def find(
    lower: Rounds,
    upper: Rounds,
    sizes: Mapping[str, int],
    bound: int,
    weights: Mapping[str, float] | None = None,
    may_gain: Callable[[Sequence[str], bool], bool] = lambda workloads, to_lower: True,
) -> tuple[int, tuple[CurvePoint, ...], str]:
    """The bound between two winners that ran interleaved, with the curve and the reason.

    A size changes hands only if its new winner is known to be faster on all that change, together, not known to be
    slower on any of them, and may gain them. One size at least stays with each. Between two neighbouring sizes the
    bound is where the straight line through the logarithms of both ratios says that they cross.

    Args:
        lower: Workload -> samples of the lower regime's winner.
        upper: The same of the upper one's, paired.
        sizes: Workload -> size.
        bound: The bound so far.
        weights: Workload -> what it counts.
        may_gain: Whether the lower winner (True) or the upper one may serve these workloads of the other's regime.
    """
    at = {size: [w for w in sorted(lower) if sizes[w] == size] for size in sorted({sizes[w] for w in lower})}
    curve = tuple(_point(size, lower, upper, members, weights) for size, members in at.items())
    listed = list(at)
    old = sum(size <= bound for size in listed)
    logs = [math.log(point.ratio.ratio) for point in curve]
    # With the first k sizes served by the lower winner, this is the log of all times over the upper winner's.
    costs = {k: math.fsum(logs[:k]) for k in range(1, len(listed))}
    for k in sorted(costs, key=lambda k: (costs[k], abs(k - old))):
        changed = [w for size in listed[min(k, old) : max(k, old)] for w in at[size]]
        sides = (lower, upper) if k > old else (upper, lower)
        if k == old or (_takes_over(changed, *sides, weights) and may_gain(changed, k > old)):
            return _between(curve, k, bound), curve, UNCHANGED if k == old else _reason(listed, k, old)
    return bound, curve, "no other bound is known to be better"


def _point(
    size: int, lower: Rounds, upper: Rounds, members: Sequence[str], weights: Mapping[str, float] | None
) -> CurvePoint:
    def mean_us(side: Rounds) -> float:
        return math.exp(weighted_mean({w: math.log(median_interval(list(side[w])).median) for w in members}, weights))

    ratio = compare({w: lower[w] for w in members}, {w: upper[w] for w in members}, weights=weights)
    return CurvePoint(size, mean_us(lower), mean_us(upper), ratio)


def _takes_over(changed: Sequence[str], new: Rounds, old: Rounds, weights: Mapping[str, float] | None) -> bool:
    """Whether ``new`` is known to be faster than ``old`` on these workloads, and not known to be slower on any."""
    confidence = 1 - 0.05 / (len(changed) + 1)

    def ratio(workloads: Sequence[str]) -> Ratio:
        return compare({w: new[w] for w in workloads}, {w: old[w] for w in workloads}, confidence, weights)

    return ratio(changed).verdict == "faster" and all(ratio([w]).verdict != "slower" for w in changed)


def _between(curve: Sequence[CurvePoint], k: int, bound: int) -> int:
    """The bound between the k-th size and the next one."""
    below, above = curve[k - 1], curve[k]
    low, high = math.log(below.ratio.ratio), math.log(above.ratio.ratio)
    if low >= 0 or high <= 0:  # one of them is faster on both
        return bound if below.size <= bound < above.size else below.size
    share = -low / (high - low)
    start, end = math.log(max(below.size, 0.5)), math.log(above.size)
    return max(below.size, min(math.floor(math.exp(start + share * (end - start))), above.size - 1))


def _reason(listed: Sequence[int], k: int, old: int) -> str:
    changed = listed[min(k, old) : max(k, old)]
    which = "lower" if k > old else "upper"
    return f"the {which} winner is faster at {', '.join(map(str, changed))} too"


def measure(
    runner: Runner,
    regimes: Sequence[Regime],
    finals: Mapping[str, FinalResult],
    guards: Mapping[str, Guard],
    method: Method,
    seed: int,
    tick: Callable[[], None] = lambda: None,
) -> list[Crossing]:
    """Measure the winners of neighbouring regimes around their bounds; where one of them fails, the bound stays.

    From the smallest bound to the largest: sizes that a regime has lost to the one below it are not offered to the one
    above, so every winner keeps a size of its own and bounds stay in order. The default of the regime that gives a size
    away runs with them, since the guard looks at sizes that are gained as well.
    """
    found: list[Crossing] = []
    for lower, upper in itertools.pairwise(r for r in regimes if r.name in finals):
        first, second = finals[lower.name], finals[upper.name]
        if not (lower.sizes and upper.sizes) or lower.bound is None:
            continue
        if first.winner == second.winner or first.mode != second.mode:
            continue
        lost = found[-1].bound if found else None
        chosen = (*_nearest(lower, last=True, above=lost), *_nearest(upper, last=False))
        wanted = {first.winner: first, second.winner: second}
        for final in (first, second):
            if final.default is not None:
                wanted.setdefault(final.default, final)
        variants = tuple(final.built[key] for key, final in wanted.items())
        asked = interleaved(replace(method, mode=first.mode))
        comparison = runner.compared(ComparisonJob(variants, chosen, asked, ROUNDS_PER_LOOK, seed), tick)
        samples, failed = samples_and_failures(comparison)
        if failed:
            continue
        known = {w: (lower if w in lower.sizes else upper).sizes[w] for w in chosen}
        rounds = samples[first.winner], samples[second.winner]

        def may_gain(
            workloads: Sequence[str],
            to_lower: bool,
            samples: Mapping[str, Rounds] = samples,
            sides: tuple[tuple[Regime, FinalResult], ...] = ((lower, first), (upper, second)),
        ) -> bool:
            (_, gains), (giver, loses) = sides if to_lower else sides[::-1]
            keys = [key for key in (gains.winner, loses.winner, loses.default) if key is not None]
            part = {key: {w: samples[key][w] for w in workloads} for key in keys}
            return gains.winner not in guards[giver.name].refused(part, loses.default)

        bound, curve, reason = find(*rounds, known, lower.bound, {**lower.weights, **upper.weights}, may_gain)
        moved = {}
        for workload in chosen:
            served = known[workload] > bound
            if served != (workload in upper.workloads):
                other = finals[lower.name if workload in lower.workloads else upper.name]
                moved[workload] = _figures(workload, rounds[served][workload], other)
        found.append(Crossing(lower.name, upper.name, lower.bound, bound, curve, reason, moved))
    return found


def settled(
    runner: Runner,
    regimes: Sequence[Regime],
    finals: Mapping[str, FinalResult],
    guards: Mapping[str, Guard],
    method: Method,
    seed: int,
    deadline: float | None = None,
    tick: Callable[[], None] = lambda: None,
) -> tuple[list[Regime], dict[str, FinalResult], list[Crossing]]:
    """The finals with the winners that the guards let win, and where these cross. Regimes that need different winners
    are divided (:mod:`tuner.sweeps.finals.division`).

    The guard looks at the sizes that a winner will serve, so the bounds come first: a config must not lose a regime
    because of sizes at its edge that its neighbour serves better.

    Args:
        deadline: Of ``time.monotonic``; past it nothing more is measured and bounds stay where they are.
    """
    chosen, crossings = _agreed(runner, regimes, finals, guards, method, seed, deadline, tick)
    elsewhere = {workload for c in crossings for workload in c.moved}
    parts: list[Regime] = []
    of_parts: dict[str, FinalResult] = {}
    guard_of: dict[str, Guard] = {}
    for regime in regimes:
        if regime.name not in chosen:
            parts.append(regime)
            continue
        for part, final in divided(regime, chosen[regime.name], guards[regime.name], elsewhere):
            parts.append(part)
            of_parts[part.name], guard_of[part.name] = final, guards[regime.name]
    if len(parts) > len(regimes):
        chosen, crossings = _agreed(runner, parts, of_parts, guard_of, method, seed, deadline, tick)
    return parts, chosen, crossings


def _agreed(
    runner: Runner,
    regimes: Sequence[Regime],
    finals: Mapping[str, FinalResult],
    guards: Mapping[str, Guard],
    method: Method,
    seed: int,
    deadline: float | None,
    tick: Callable[[], None],
) -> tuple[dict[str, FinalResult], list[Crossing]]:
    """Winners and bounds that agree. A guard that changes a winner changes what was measured at its bounds, so both are
    repeated; if they do not agree within :data:`MOST_REPEATS`, bounds stay where they are."""

    def after_guard(crossings: Sequence[Crossing]) -> dict[str, FinalResult]:
        elsewhere = {workload for c in crossings for workload in c.moved}
        return {r.name: guarded(finals[r.name], r, guards[r.name], elsewhere) for r in regimes if r.name in finals}

    measured = finals
    for _ in range(MOST_REPEATS):
        if deadline is not None and time.monotonic() > deadline:
            break
        crossings = measure(runner, regimes, measured, guards, method, seed, tick)
        chosen = after_guard(crossings)
        if all(chosen[name].winner == final.winner for name, final in measured.items()):
            return chosen, crossings
        measured = chosen
    return after_guard([]), []


def _nearest(regime: Regime, *, last: bool, above: int | None = None) -> tuple[str, ...]:
    """The workloads of a regime's sizes that are next to its upper (``last``) or lower bound, those above a size."""
    listed = sorted({size for size in regime.sizes.values() if above is None or size > above})
    near = set(listed[-SIZES_ON_EACH_SIDE:] if last else listed[:SIZES_ON_EACH_SIDE])
    return tuple(w for w in regime.workloads if regime.sizes[w] in near)


def _figures(workload: str, samples: Sequence[float], final: FinalResult) -> WinnerWorkload:
    """Figures of a winner on a workload of the other regime, beside the default's from that one's final."""
    known = median_interval(list(samples))
    default = final.measurements[final.default][workload].median_us if final.default else None
    return WinnerWorkload(workload, known.median, known.low, known.high, default)


def applied(winners: Sequence[WinnerRecord], crossings: Sequence[Crossing]) -> list[WinnerRecord]:
    """The winners with their new bounds, each with the workloads that it now serves."""
    by_name = {w.regime: w for w in winners}
    for c in crossings:
        lower, upper = by_name[c.lower], by_name[c.upper]
        to_lower = c.bound > c.was
        gains, loses = (lower, upper) if to_lower else (upper, lower)
        kept = tuple(w for w in loses.workloads if w.workload not in c.moved)
        by_name[loses.regime] = replace(loses, workloads=kept)
        by_name[gains.regime] = replace(gains, workloads=(*gains.workloads, *c.moved.values()))
        by_name[c.lower] = replace(by_name[c.lower], max_size=c.bound)
        by_name[c.upper] = replace(by_name[c.upper], min_size=c.bound + 1)
    return [by_name[w.regime] for w in winners]
