"""Expected improvement of a candidate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Array = NDArray[np.float64]


def log_expected_improvement(mean: NDArray[np.floating], deviation: NDArray[np.floating], best: float) -> Array:
    """Logarithm of the expected amount by which a candidate is below ``best``.

    The logarithm still tells candidates apart whose improvement is too small for a float.

    Source: Jones, Schonlau and Welch, Efficient Global Optimization (1998), for the expectation; the tail is the
    asymptotic series of the normal distribution.
    """
    spread = deviation.astype(np.float64)
    z = (best - mean.astype(np.float64)) / spread
    density = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    near = z > -5
    out = np.empty_like(z)
    out[near] = np.log(spread[near] * (z[near] * ndtr(z[near]) + density[near]))
    far = z[~near]
    out[~near] = np.log(spread[~near]) - 0.5 * far * far - 0.5 * np.log(2 * np.pi) - 2 * np.log(-far)
    return out
