"""Targets for the surrogate, independent of the unit and offset of the values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def target_unit(values: NDArray[np.float64]) -> float:
    """Difference in value that one unit of target stands for, for values below the median."""
    return float(_bent(values).std())


def targets(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standardised values with the bad half compressed.

    Values above the median are compressed logarithmically: how bad the bad ones are says little about where the best
    are, and a few very slow configs would otherwise set the scale. Shifting or scaling all values changes nothing.

    Args:
        values: Finished objective values, shape [n], n >= 1.

    Returns:
        Mean 0 and standard deviation 1 (all zeros if all values are equal), same order as ``values``.
    """
    bent = _bent(values)
    spread = float(bent.std())
    return (bent - bent.mean()) / spread if spread > 0 else np.zeros_like(bent)


def _bent(values: NDArray[np.float64]) -> NDArray[np.float64]:
    middle = float(np.median(values))
    unit = middle - float(values.min())
    bent = values.astype(np.float64).copy()
    if unit > 0:
        above = bent > middle
        bent[above] = middle + unit * np.log1p((bent[above] - middle) / unit)
    return bent
