"""Compares paired samples of two variants, with an interval.

The samples come from interleaved rounds (every variant once on every workload, in shuffled order), so the differences
within a round are paired: a disturbance of the machine affects all variants alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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


def compare(a: Rounds, b: Rounds, confidence: float = 0.95, weights: Mapping[str, float] | None = None) -> Ratio:
    """Ratio of ``a`` to ``b``: per round the geometric mean of a/b over workloads, then the median over rounds.

    ``weights`` says what each workload counts, 1 for those that are not named. The interval is distribution-free (order
    statistics of the paired rounds).

    Raises:
        ValueError: The two do not have the same workloads and rounds.
    """
    if set(a) != set(b) or not a:
        raise ValueError(f"paired variants need the same workloads, got {sorted(a)} and {sorted(b)}")
    lengths = {len(v) for v in [*a.values(), *b.values()]}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"paired variants need the same number of rounds, got {sorted(lengths)}")
    logs = weighted_mean(
        {w: np.log(np.asarray(a[w], float)) - np.log(np.asarray(b[w], float)) for w in sorted(a)}, weights
    )
    known = median_interval(logs.tolist(), confidence)
    return Ratio(math.exp(known.median), math.exp(known.low), math.exp(known.high))


def weighted_mean(values: Mapping[str, Any], weights: Mapping[str, float] | None = None) -> Any:
    """Mean over workloads of numbers or arrays, by weight (1 if not named); the plain one where none counts."""
    counts = [1.0 if weights is None else weights.get(w, 1.0) for w in values]
    return np.average(list(values.values()), axis=0, weights=counts if any(counts) else None)
