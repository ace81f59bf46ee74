"""Targets for a surrogate: what a value is worth, whatever its unit or scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def targets(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standardised values with the bad half compressed.

    Values above the median are bent down logarithmically: how bad the bad ones are says little about where the best
    are, and a few very slow configs would otherwise set the scale. Shifting or scaling all values changes nothing.

    Args:
        values: Finished objective values, shape [n], n >= 1.

    Returns:
        Mean 0 and standard deviation 1 (all zeros if all values are equal), same order as ``values``.
    """
    middle = float(np.median(values))
    unit = middle - float(values.min())
    bent = values.astype(np.float64).copy()
    if unit > 0:
        above = bent > middle
        bent[above] = middle + unit * np.log1p((bent[above] - middle) / unit)
    spread = float(bent.std())
    return (bent - bent.mean()) / spread if spread > 0 else np.zeros_like(bent)
