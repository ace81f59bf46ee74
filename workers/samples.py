"""Statistics of one series of samples. The only place where a median gets its interval."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np


@lru_cache(maxsize=4096)
def _rank(n: int, confidence: float) -> int:
    """The largest k for which the k-th smallest and k-th largest of n samples bound the median; 0 if there is none."""
    from scipy.stats import binom

    # binom.cdf(k - 1) is the chance that fewer than k of n samples fall below the median.
    return int(binom.ppf((1 - confidence) / 2, n, 0.5))


def median_interval(samples: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Median of the samples and a distribution-free interval for the true median.

    The bounds are order statistics, whose ranks follow from the binomial distribution; no shape is assumed. With too few
    samples for the confidence (under 6 at 95 %) the interval is the whole range, the widest that the data can give.

    Args:
        samples: At least one number.
        confidence: Two-sided.

    Returns:
        ``(median, low, high)`` in the samples' unit.

    Source: W. J. Conover, Practical Nonparametric Statistics, 3rd ed., section 3.2.
    """
    ordered = np.sort(np.asarray(samples, float))
    if ordered.size == 0:
        raise ValueError("no samples")
    k = max(1, _rank(int(ordered.size), confidence))
    return float(np.median(ordered)), float(ordered[k - 1]), float(ordered[-k])
