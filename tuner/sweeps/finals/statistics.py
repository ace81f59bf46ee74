"""Decides which of several variants is faster, and when that is certain enough.

The samples come from interleaved rounds (every variant once on every workload, in shuffled order), so the differences
within a round are paired: a disturbance of the machine affects all variants alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from workers.judge.timing.interval import median_interval

TIE_MARGIN = 0.005
"""Variants whose ratio is known to be this close to 1 count as equally fast."""


@dataclass(frozen=True)
class Ratio:
    """Time of one variant over that of another: the median over rounds, and its interval."""

    ratio: float
    low: float
    high: float

    @property
    def verdict(self) -> Literal["faster", "slower", "tie", "open"]:
        """The conclusion: ``tie`` if the whole interval is within TIE_MARGIN, ``open`` if more rounds are needed."""
        if abs(self.low - 1) <= TIE_MARGIN and abs(self.high - 1) <= TIE_MARGIN:
            return "tie"
        if self.high < 1:
            return "faster"
        return "slower" if self.low > 1 else "open"


Rounds = Mapping[str, Sequence[float]]
"""Workload -> one latency in microseconds per round."""


def compare(a: Rounds, b: Rounds, confidence: float = 0.95) -> Ratio:
    """Ratio of ``a`` to ``b``: per round the geometric mean of a/b over workloads, then the median over rounds.

    The interval is distribution-free (order statistics of the paired rounds).

    Raises:
        ValueError: The two do not have the same workloads and rounds.
    """
    if set(a) != set(b) or not a:
        raise ValueError(f"paired variants need the same workloads, got {sorted(a)} and {sorted(b)}")
    lengths = {len(v) for v in [*a.values(), *b.values()]}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"paired variants need the same number of rounds, got {sorted(lengths)}")
    logs = np.mean([np.log(np.asarray(a[w], float)) - np.log(np.asarray(b[w], float)) for w in sorted(a)], axis=0)
    known = median_interval(logs.tolist(), confidence)
    return Ratio(math.exp(known.median), math.exp(known.low), math.exp(known.high))


@dataclass(frozen=True)
class Ranking:
    """The outcome of a final.

    Args:
        winner: The key of the variant to use.
        against_winner: Key -> its time over the winner's.
        settled: Whether every other finalist is known to be slower than or tied with the fastest one.
        reason: One line for the record.
    """

    winner: str
    against_winner: Mapping[str, Ratio]
    settled: bool
    reason: str


def rank(
    rounds: Mapping[str, Rounds], simplicity: Mapping[str, tuple], default: str | None = None, looks: int = 1
) -> Ranking:
    """Choose among finalists.

    The fastest by point estimate leads. A variant that is tied with the leader (within TIE_MARGIN, at the confidence)
    wins instead if it is simpler. A leader that is not known to be faster than the default gives way to the default.

    Args:
        rounds: Key -> its samples; all paired.
        simplicity: Key -> sort key, smaller is simpler.
        default: Key of the default config, None if it is not among the finalists (it failed).
        looks: How often the ranking will be computed. Each time and each comparison gets its share of the error
            probability (Bonferroni), so that stopping early does not favour lucky results.
    """
    keys = list(rounds)
    confidence = 1 - 0.05 / max(1, looks * (len(keys) - 1))
    # In a fixed order, so that the same samples give the same bits and the same winner.
    centre = {k: np.mean([np.log(np.median(rounds[k][w])) for w in sorted(rounds[k])]) for k in keys}
    leader = min(keys, key=lambda k: (centre[k], simplicity[k]))
    versus = {k: compare(rounds[k], rounds[leader], confidence) for k in keys if k != leader}
    ties = [k for k in versus if versus[k].verdict == "tie"]
    winner = min([leader, *ties], key=lambda k: simplicity[k])
    settled = all(v.verdict != "open" for v in versus.values())
    reason = "fastest" if winner == leader else f"tied with the fastest within {TIE_MARGIN:.1%}, and simpler"
    if default is not None and winner != default:
        against_default = compare(rounds[winner], rounds[default], confidence)
        if against_default.verdict not in ("faster",):
            winner = default
            reason = "no finalist is known to be faster than the default"
    against = {k: compare(rounds[k], rounds[winner]) for k in keys if k != winner}
    return Ranking(winner, against, settled, reason)
