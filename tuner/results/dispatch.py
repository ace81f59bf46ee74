"""Which winner serves a size: one rule for the lookup and for the table of an exported Solution."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from db.records import WinnerRecord, WinnerWorkload
from search_spaces import Config
from search_spaces.space import row_of
from tuner.sweeps.regimes import NEAREST_LIMIT


def measured(winner: WinnerRecord) -> list[tuple[int, WinnerWorkload]]:
    """The sizes that a winner was measured on, with their workloads, by rising size."""
    axis = winner.size_axis
    found = [(w.axes[axis], w) for w in winner.workloads if axis is not None and axis in w.axes]
    return sorted(found, key=lambda pair: pair[0])


def is_unfit(winner: WinnerRecord, size: int) -> bool:
    """Whether a constraint of the space forbids the winner's config at a size."""
    return any(low <= size and (high is None or size <= high) for low, high in winner.unfit_sizes)


def holds(winner: WinnerRecord, size: int) -> bool:
    """Whether a size belongs to the winner's regime; one that is open upwards ends with its largest measured size."""
    if size < (winner.min_size or 0) or is_unfit(winner, size):
        return False
    highest = winner.max_size
    if highest is None:
        highest = max((other for other, _ in measured(winner)), default=size)
    return size <= highest


def distance(size: int, other: int) -> float:
    """How many times larger one is than the other; infinite where only one is 0."""
    larger, smaller = max(size, other), min(size, other)
    return larger / smaller if smaller else math.inf if larger else 1.0


def nearest(winner: WinnerRecord, size: int) -> tuple[float, int, WinnerWorkload] | None:
    """The measured size nearest to a size, the smaller of equals: how far it is, the size, its workload; None where the
    config must not be used."""
    if is_unfit(winner, size):
        return None
    found = [(distance(size, other), other, workload) for other, workload in measured(winner)]
    return min(found, key=lambda f: f[:2], default=None)


def choose(winners: Sequence[WinnerRecord], size: int, limit: float = NEAREST_LIMIT) -> WinnerRecord | None:
    """The winner that serves a size: that of its regime, else the one measured nearest to it within ``limit``."""
    for winner in winners:
        if winner.size_axis is None or holds(winner, size):
            return winner
    near = [(*found[:2], i) for i, w in enumerate(winners) if (found := nearest(w, size)) and found[0] <= limit]
    return winners[min(near)[2]] if near else None


def dispatch_table(
    winners: Sequence[WinnerRecord], default: Sequence[tuple[int | None, Config]] | None = None
) -> list[tuple[int | None, Config]]:
    """Rows for :meth:`SearchSpace.render`: largest size and config, neighbours with the same config merged.

    Args:
        winners: Of one sweep, with the axes of their workloads.
        default: Rows for sizes that :func:`choose` has no winner for; None where the default is known to fail: they
            take the nearest winner, however far it is.
    """
    limit = math.inf if default is None else NEAREST_LIMIT
    rows: list[tuple[int | None, Config]] = []
    ends = {*_turning_points(winners), *(bound for bound, _ in default or () if bound is not None)}
    bounds: list[int | None] = [*sorted(ends), None]
    for bound in bounds:
        size = bound if bound is not None else max((b for b in bounds if b is not None), default=0) + 1
        winner = choose(winners, size, limit)
        if winner is None and default is None:  # something has to serve the size
            winner = choose([replace(w, unfit_sizes=()) for w in winners], size, limit)
        config = dict(winner.config if winner is not None else row_of(default or [(None, {})], size)[1])
        if rows and rows[-1][1] == config:
            rows.pop()
        rows.append((bound, config))
    return rows


def _turning_points(winners: Sequence[WinnerRecord]) -> Iterator[int]:
    """The last size before each one at which :func:`choose` may change its mind."""
    sizes = sorted({size for w in winners for size, _ in measured(w)})
    for winner in winners:
        own = measured(winner)
        ends = [(winner.min_size or 0) - 1, winner.max_size, own[-1][0] if own else None]
        ends += [end for low, high in winner.unfit_sizes for end in (low - 1, high)]
        yield from (end for end in ends if end is not None and end >= 0)
    for size in sizes:
        yield from (end for end in (math.ceil(size / NEAREST_LIMIT) - 1, math.floor(size * NEAREST_LIMIT)) if end >= 0)
    # Between neighbours; where a nearer one must not be used, between any two.
    pairs = itertools.combinations(sizes, 2) if any(w.unfit_sizes for w in winners) else itertools.pairwise(sizes)
    for small, large in pairs:
        yield math.isqrt(small * large)
