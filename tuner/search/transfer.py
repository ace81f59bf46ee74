"""Predictions for the configs of this space from a related sweep: of another GPU, shape or version of the space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from search_spaces.parameters import Config, Parameter, Value, same_value
from tuner.search.gaussian_process import regression as gp
from tuner.search.gaussian_process.encoding import Encoding, Point
from tuner.search.gaussian_process.features import Features
from tuner.search.gaussian_process.transform import targets

Array = NDArray[np.float64]

FEWEST = 8
"""A related sweep with fewer usable observations is ignored."""
MOST = 300
"""Most observations to learn from: one half are the best, the others are spread over the rest."""


class Transfer:
    """Predicts a config's standing in a related sweep by a Gaussian process on the parameters that both spaces have.

    Parameters that only one of the spaces has are ignored, as are observations with a value that this space does not
    know, and failures.

    Args:
        encoding: Encoding of this space.
        prior: Finished trials of the related sweep.
    """

    def __init__(self, encoding: Encoding, prior: Sequence[tuple[Config, float | None]]) -> None:
        self._features = Features.of(encoding)
        shared = {p.name for p in encoding.space.parameters if prior and all(p.name in c for c, _ in prior)}
        self._shared = np.array([p.name in shared for p in encoding.space.parameters])
        found: dict[Point, list[float]] = {}
        for config, value in prior:
            point = _shared_point(encoding, config, shared)
            if point is not None and value is not None:
                found.setdefault(point, []).append(value)
        self._posterior: tuple[gp.Hyperparameters, Array, Array] | None = None
        if len(found) >= FEWEST and shared:
            self._learn(np.array(list(found), dtype=np.int16), np.array([min(v) for v in found.values()]))

    @property
    def usable(self) -> bool:
        """Whether there were enough observations."""
        return self._posterior is not None

    def __call__(self, points: NDArray[np.int16]) -> Array:
        """Predicted target at each point, shape [points]: lower is better, 0 is the related sweep's mean."""
        if self._posterior is None:
            return np.zeros(len(points))
        known, seen, wanted = self._posterior
        model = gp.Posterior(known, self._see(points))
        model.condition(list(range(len(seen))), seen)
        return model.mean(wanted, np.ones(len(seen), dtype=np.bool_)).astype(np.float64)

    def _learn(self, points: NDArray[np.int16], values: Array) -> None:
        ranked = np.argsort(values)
        if len(ranked) > MOST:
            rest = ranked[MOST // 2 :]
            spread = rest[np.linspace(0, len(rest) - 1, MOST - MOST // 2).astype(np.intp)]
            ranked = np.concatenate([ranked[: MOST // 2], spread])
        seen, wanted = self._see(points[ranked]), targets(values[ranked])
        self._posterior = (gp.fit(seen, self._features.groups, wanted), seen, wanted)

    def _see(self, points: NDArray[np.int16]) -> Array:
        """Features in which the parameters that are not shared are constant."""
        return self._features(np.where(self._shared, points, 0).astype(np.int16))


def _shared_point(encoding: Encoding, config: Config, shared: set[str]) -> Point | None:
    """The point of the shared parameters, zero elsewhere; None if a value is unknown here."""
    codes = []
    for parameter in encoding.space.parameters:
        code = _code(parameter, config[parameter.name]) if parameter.name in shared else 0
        if code is None:
            return None
        codes.append(code)
    return tuple(codes)


def _code(parameter: Parameter, value: Value) -> int | None:
    return next((code for code, allowed in enumerate(parameter.values) if same_value(allowed, value)), None)
