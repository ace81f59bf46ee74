"""Targets for the surrogate, independent of the unit and offset of the values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scale:
    """Standardises values, with the bad half compressed.

    Values above the median are compressed logarithmically: how bad the bad ones are says little about where the best
    are, and a few very slow configs would otherwise set the scale. Shifting or scaling all values changes nothing.

    Args:
        middle: The median.
        unit: From the best value to the median.
        mean: Of the compressed values.
        spread: Their standard deviation: the difference in value that one unit of target stands for, below the median.
    """

    middle: float
    unit: float
    mean: float
    spread: float

    @classmethod
    def of(cls, values: Array) -> Scale:
        """The scale in which finished values, shape [n], n >= 1, have mean 0 and standard deviation 1."""
        middle = float(np.median(values))
        rough = cls(middle, middle - float(values.min()), 0.0, 1.0)
        bent = rough(values)
        return cls(middle, rough.unit, float(bent.mean()), float(bent.std()))

    def __call__(self, values: Array) -> Array:
        """Targets of values, those of the scale or others; all zeros where all values of the scale are equal."""
        if self.spread <= 0:
            return np.zeros(len(values))
        bent = values.astype(np.float64).copy()
        if self.unit > 0:
            above = bent > self.middle
            bent[above] = self.middle + self.unit * np.log1p((bent[above] - self.middle) / self.unit)
        return (bent - self.mean) / self.spread


def targets(values: Array) -> Array:
    """Targets of finished values, shape [n], n >= 1: mean 0 and standard deviation 1, in the same order."""
    return Scale.of(values)(values)
