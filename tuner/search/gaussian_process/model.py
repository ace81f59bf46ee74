"""One surrogate of the objective over the rows of a table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from tuner.search.config_table import ConfigTable
from tuner.search.gaussian_process import acquisition
from tuner.search.gaussian_process import regression as gp
from tuner.search.gaussian_process.features import Features

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Others:
    """What searches of the same space on other sizes know.

    Args:
        place: Where this search is among them, in [0, 1].
        points: Configs that they tried, shape [n, parameters].
        places: Where the search is that tried each, shape [n].
        wanted: Its target there, shape [n].
    """

    place: float
    points: NDArray[np.int16]
    places: Array
    wanted: Array

    @classmethod
    def none(cls) -> Others:
        """For a search that is the only one."""
        return cls(0.0, np.zeros((0, 0), dtype=np.int16), np.zeros(0), np.zeros(0))


class GaussianModel:
    """A Gaussian process on one view of the configs, kept up to date row by row.

    Args:
        table: The table whose rows it models.
        features: The features it sees of a config.
        beliefs: Prior of its hyperparameters.
    """

    def __init__(self, table: ConfigTable, features: Features, beliefs: gp.Prior) -> None:
        self._table = table
        self._features = features
        self._beliefs = beliefs
        self._known: gp.Hyperparameters | None = None
        self._posterior: gp.Posterior | None = None
        self._place: float | None = None
        self._others = Others.none()

    def refit(self, rows: list[int], wanted: Array, pool: NDArray[np.intp], others: Others | None = None) -> None:
        """Fit the hyperparameters again and replace the pool of candidates.

        Args:
            rows: Observed rows.
            wanted: Their targets, shape [rows].
            pool: Candidate rows.
            others: What searches of other sizes know, which is learnt from as well.
        """
        if others is not None and (self._place is None or others.place != self._place):
            self._place, self._known = others.place, None
        self._others = others or Others.none()
        seen = np.concatenate([self._see_others(), self._see(rows)])
        groups = self._features.groups
        if self._place is not None:
            groups = (*groups, max(groups, default=-1) + 1)
        self._known = gp.fit(
            seen,
            groups,
            np.concatenate([self._others.wanted, wanted]),
            start=self._known,
            prior=self._beliefs,
        )
        self._posterior = gp.Posterior(self._known, self._see(pool))

    def update(self, seen: list[int]) -> None:
        """Condition on these rows, finished or in flight, and on what other searches knew at the last fit."""
        keys = [-1 - i for i in range(len(self._others.wanted))]
        self.posterior.condition([*keys, *seen], np.concatenate([self._see_others(), self._see(seen)]))

    def slope(self, rows: list[int], wanted: Array, line: Array, belief: tuple[float, float]) -> float:
        """How strongly the targets of rows follow a line; see :func:`regression.slope`. After :meth:`refit`."""
        return gp.slope(self.posterior.known, self._see(rows), wanted, line, belief)

    def log_expected_improvement(
        self, wanted: Array, told: NDArray[np.bool_], best: float, prior: Array | float = 0.0
    ) -> Array:
        """Log expected improvement of each row of the pool over the best target.

        Args:
            wanted: Targets of the rows given to :meth:`update`, less their prior mean; ignored where ``told`` is false.
            told: Which of the rows have a target.
            best: The smallest target.
            prior: Prior mean of each row of the pool.
        """
        mean = self._mean(wanted, told) + prior
        return acquisition.log_expected_improvement(mean, self.posterior.deviation(), best)

    def draw(
        self,
        wanted: Array,
        told: NDArray[np.bool_],
        chosen: NDArray[np.intp],
        normal: Array,
        prior: Array | float = 0.0,
    ) -> Array:
        """Joint draws of the targets at chosen positions of the pool; see :meth:`Posterior.draw`."""
        mean = self._mean(wanted, told) + prior
        return self.posterior.draw(mean, chosen, normal)

    def log_chance_above_zero(self, labels: Array) -> Array:
        """Logarithm of the probability that the modelled value is positive, for each row of the pool.

        Args:
            labels: 1 or -1 for each row given to :meth:`update`.

        Source: Rasmussen and Williams, section 6.5: least-squares classification by regression on the labels.
        """
        mean = self._mean(labels, np.ones(len(labels), dtype=np.bool_)).astype(np.float64)
        spread = np.sqrt(self.posterior.deviation().astype(np.float64) ** 2 + self.posterior.known.noise)
        chance: Array = log_ndtr(mean / spread)
        return chance

    @property
    def posterior(self) -> gp.Posterior:
        """The Gaussian process, after the first :meth:`refit`."""
        if self._posterior is None:
            raise RuntimeError("the model was asked before it was fitted")
        return self._posterior

    def _mean(self, wanted: Array, told: NDArray[np.bool_]) -> NDArray[np.float32]:
        known = np.ones(len(self._others.wanted), dtype=np.bool_)
        return self.posterior.mean(np.concatenate([self._others.wanted, wanted]), np.concatenate([known, told]))

    def _see(self, rows: list[int] | NDArray[np.intp]) -> Array:
        return self._at(self._features(self._table.points[rows]), self._place)

    def _see_others(self) -> Array:
        others = self._others
        if not len(others.wanted):
            return self._see(np.zeros(0, dtype=np.intp))
        return np.column_stack([self._features(others.points), others.places])

    @staticmethod
    def _at(features: Array, place: float | None) -> Array:
        return features if place is None else np.column_stack([features, np.full(len(features), place)])
