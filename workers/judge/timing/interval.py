"""The median of samples, a distribution-free interval for it, and the measurement made of both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

from workers.records import Measurement, Method, Status


@dataclass(frozen=True)
class MedianInterval:
    """``low`` and ``high`` are order statistics of the sample; ``coverage`` is how often they hold the true median."""

    median: float
    low: float
    high: float
    coverage: float

    @property
    def rel_half_width(self) -> float:
        """The larger distance from the median to an end, as a share of the median."""
        if self.median == 0:
            return math.inf
        return max(self.high - self.median, self.median - self.low) / self.median


def median_interval(samples: Sequence[float], confidence: float = 0.95) -> MedianInterval:
    """Median with the narrowest symmetric pair of order statistics that covers it with the wanted confidence.

    For a continuous distribution the number of samples below the true median is binomial with p = 1/2, so the pair
    ``(x[k], x[n-1-k])`` covers it with probability ``1 - 2 * P(B <= k)``. With fewer than six samples no pair reaches
    95 %; the extremes are then returned with their actual coverage.

    Source: H. A. David, H. N. Nagaraja, Order Statistics, section 7.1.

    Raises:
        ValueError: The sample is empty.
    """
    if not samples:
        raise ValueError("the median of no samples is not defined")
    ordered = sorted(samples)
    n = len(ordered)
    median = ordered[n // 2] if n % 2 else (ordered[n // 2 - 1] + ordered[n // 2]) / 2
    rank, coverage = _rank(n, confidence)
    return MedianInterval(median, ordered[rank], ordered[n - 1 - rank], coverage)


def measured(
    workload: str,
    samples_us: Sequence[float],
    method: Method,
    conditions: Mapping[str, Any],
    errors: Mapping[str, Any] | None = None,
) -> Measurement:
    """The measurement of a variant that passed. All of them are made here.

    Args:
        workload: Uuid of the workload.
        samples_us: Samples in the order taken.
        method: The method.
        conditions: What was read beside the samples.
        errors: Error figures of its check, None if it was not checked again.
    """
    known = median_interval(samples_us)
    return Measurement(
        workload=workload,
        status=Status.PASSED,
        samples_us=tuple(samples_us),
        median_us=known.median,
        low_us=known.low,
        high_us=known.high,
        conditions=conditions,
        method=method,
        **(errors or {}),
    )


@lru_cache(maxsize=4096)
def _rank(n: int, confidence: float) -> tuple[int, float]:
    """The largest k whose pair still has the confidence, and the coverage of that pair."""
    if n > 1000:
        # Normal approximation, rounded outwards: exact binomials of this size overflow a float.
        z = NormalDist().inv_cdf((1 + confidence) / 2)
        return max(0, math.floor(n / 2 - z * math.sqrt(n) / 2) - 1), confidence
    total = 2.0**n
    k, below = 0, 1.0
    coverage = 1 - 2 * below / total
    while k + 1 <= (n - 1) // 2:
        below += math.comb(n, k + 1)
        wider = 1 - 2 * below / total
        if wider < confidence:
            break
        k, coverage = k + 1, wider
    return k, max(coverage, 0.0)
