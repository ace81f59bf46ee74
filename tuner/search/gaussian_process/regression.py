"""A Gaussian process over a fixed pool of candidates, cheap enough for hundreds of updates.

Covariance: a Matern 5/2 kernel with a length scale per group of columns, plus noise.

Source: Rasmussen and Williams, Gaussian Processes for Machine Learning, chapters 2, 4 and 5 (equations, gradient of the
marginal likelihood); row-by-row growth of the Cholesky factor as in any text on matrix computations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Array = NDArray[np.float64]

_ROOT5 = float(np.sqrt(5.0))
_JITTER = 1e-5
"""Share of the signal's variance that always counts as noise; keeps the matrix of similar configs positive definite."""


@dataclass(frozen=True)
class Hyperparameters:
    """Hyperparameters of the covariance, for targets of unit variance.

    Args:
        scales: Length scale per column of the features.
        signal: Variance of the Matern part.
        noise: Variance of an observation.
    """

    scales: Array
    signal: float
    noise: float


@dataclass(frozen=True)
class Prior:
    """Log-normal priors of the hyperparameters, as (median, standard deviation of the log).

    They say that the columns, which span [0, 1], matter at about their full range, and that measurements are good.
    """

    scale: tuple[float, float] = (0.7, 1.0)
    signal: tuple[float, float] = (1.0, 1.0)
    noise: tuple[float, float] = (0.01, 1.0)


def fit(
    features: Array,
    groups: Sequence[int],
    targets: Array,
    *,
    start: Hyperparameters | None = None,
    prior: Prior | None = None,
    steps: int = 20,
) -> Hyperparameters:
    """The hyperparameters with the largest posterior probability, found by L-BFGS from ``start``.

    Args:
        features: Features of the observed configs, shape [n, columns].
        groups: Group of each column.
        targets: Standardised values, shape [n].
        start: Where to start; default: the prior's medians.
        prior: Default: ``Prior()``.
        steps: Most iterations.
    """
    from scipy.optimize import minimize

    problem = _Evidence(features, np.asarray(groups), targets, prior or Prior())
    x0 = problem.pack(start) if start is not None else problem.middle
    bounds = list(zip(problem.middle - 5.0, problem.middle + 5.0, strict=True))
    found = minimize(problem, x0, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": steps})
    return problem.unpack(found.x)


class _Evidence:
    """Negative log posterior of the hyperparameters and its gradient, over their logs."""

    def __init__(self, features: Array, groups: NDArray[np.intp], targets: Array, prior: Prior) -> None:
        self._groups = groups
        self._targets = targets
        n, count = len(features), int(groups.max()) + 1
        self._apart = np.zeros((count, n, n))
        for column, group in zip(features.T, groups, strict=True):
            self._apart[group] += (column[:, None] - column[None]) ** 2
        beliefs = [prior.scale] * count + [prior.signal, prior.noise]
        # The priors are on the standard deviations of signal and noise; the variances are their squares.
        self.middle = np.log([b[0] for b in beliefs])
        self._spread = np.array([b[1] for b in beliefs])

    def pack(self, known: Hyperparameters) -> Array:
        first = [int(np.flatnonzero(self._groups == g)[0]) for g in range(len(self._apart))]
        tail = [np.log(known.signal) / 2, np.log(known.noise) / 2]
        return np.concatenate([np.log(known.scales[first]), tail])

    def unpack(self, x: Array) -> Hyperparameters:
        count = len(self._apart)
        scales = np.exp(x[:count])[self._groups]
        return Hyperparameters(scales, float(np.exp(2 * x[count])), float(np.exp(2 * x[count + 1])))

    def __call__(self, x: Array) -> tuple[float, Array]:
        count, n = len(self._apart), len(self._targets)
        weights = np.exp(-2 * x[:count])
        signal, noise = np.exp(2 * x[count]), np.exp(2 * x[count + 1])
        squared = np.tensordot(weights, self._apart, 1)
        root = _ROOT5 * np.sqrt(squared)
        decay = np.exp(-root)
        shape = (1 + root + root * root / 3) * decay
        covariance = signal * shape
        covariance[np.diag_indices(n)] += noise + _JITTER * signal
        try:
            factor = np.linalg.cholesky(covariance)
        except np.linalg.LinAlgError:
            return 1e10, np.zeros_like(x)
        solved = scipy.linalg.cho_solve((factor, True), self._targets, check_finite=False)
        inverse = scipy.linalg.lapack.dpotri(factor, lower=1)[0]
        inverse = np.tril(inverse) + np.tril(inverse, -1).T
        slope = 0.5 * (inverse - np.outer(solved, solved))
        gradient = np.empty_like(x)
        by_distance = slope * (signal * (-5 / 6) * (1 + root) * decay)
        gradient[:count] = (self._apart.reshape(count, -1) @ by_distance.ravel()) * (-2 * weights)
        gradient[count] = 2 * signal * (float((slope * shape).sum()) + _JITTER * float(np.trace(slope)))
        gradient[count + 1] = 2 * noise * float(np.trace(slope))
        off = (x - self.middle) / self._spread
        value = 0.5 * float(self._targets @ solved) + float(np.log(np.diag(factor)).sum()) + 0.5 * float(off @ off)
        return value, gradient + off / self._spread


def slope(known: Hyperparameters, features: Array, targets: Array, line: Array, belief: tuple[float, float]) -> float:
    """How strongly targets follow a line on top of the Gaussian process: generalised least squares with a prior.

    Args:
        known: Hyperparameters of what is left without the line.
        features: Features of the observed configs, shape [n, columns].
        targets: Shape [n].
        line: Shape [n].
        belief: Mean and standard deviation of the factor before any observation.

    Source: Rasmussen and Williams, section 2.7 (explicit basis functions).
    """
    model = Posterior(known, features[:0])
    model.condition(list(range(len(features))), features)
    solved = model.solve(np.stack([line, targets], axis=1))
    mean, deviation = belief
    weight = 1 / deviation**2
    return float((line @ solved[:, 1] + weight * mean) / (line @ solved[:, 0] + weight))


class Posterior:
    """Mean and variance over a pool of candidates, given observations that arrive one by one.

    Args:
        known: Hyperparameters.
        pool: Features of the candidates, shape [candidates, columns].
    """

    def __init__(self, known: Hyperparameters, pool: Array) -> None:
        self.known = known
        self._pool = (pool / known.scales).astype(np.float32)
        self._pool_norm = (self._pool * self._pool).sum(axis=1)
        self._keys: list[int] = []
        self._seen = np.zeros((0, pool.shape[1]))
        self._factor = np.zeros((64, 64))
        self._rows = np.zeros((64, len(pool)), dtype=np.float32)
        self._variance = np.full(len(pool), known.signal, dtype=np.float32)

    def condition(self, keys: Sequence[int], features: Array) -> None:
        """Make these the observed configs; cheap if they start with the same ones as last time.

        Args:
            keys: Name of each observed config.
            features: Shape [n, columns].
        """
        same = 0
        while same < min(len(keys), len(self._keys)) and keys[same] == self._keys[same]:
            same += 1
        self._truncate(same)
        if same < len(keys):
            self._extend(list(keys[same:]), features[same:] / self.known.scales)

    def mean(self, targets: Array, told: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Mean at each candidate.

        Args:
            targets: Targets of the observed configs in order, shape [n]; ignored where ``told`` is false.
            told: Which of them have a target, shape [n]. The others only reduce the variance.
        """
        n = len(self._keys)
        factor = self._factor[:n, :n]
        filled = np.where(told, targets, 0.0)
        if not told.all():
            filled[~told] = self._expected(factor, filled, told)
        weights = scipy.linalg.solve_triangular(factor, filled, lower=True, check_finite=False)
        return weights.astype(np.float32) @ self._rows[:n]

    def solve(self, right: Array) -> Array:
        """The inverse of the observed configs' covariance times ``right``, shape [n, k]."""
        n = len(self._keys)
        solved: Array = scipy.linalg.cho_solve((self._factor[:n, :n], True), right, check_finite=False)
        return solved

    def deviation(self) -> NDArray[np.float32]:
        """Standard deviation of the noiseless value at each candidate."""
        return np.sqrt(np.maximum(self._variance, np.float32(1e-6 * self.known.signal)))

    def draw(self, mean: NDArray[np.float32], chosen: NDArray[np.intp], normal: Array) -> Array:
        """Joint draws of the noiseless values of a few candidates.

        Args:
            mean: From :meth:`mean`.
            chosen: Positions in the pool, shape [m]; m up to a few hundred.
            normal: Independent standard normal numbers, shape [draws, m].

        Returns:
            Shape [draws, m].
        """
        pool = self._pool[chosen].astype(np.float64)
        rows = self._rows[: len(self._keys), chosen].astype(np.float64)
        covariance = self._covariance(pool, pool) - rows.T @ rows
        values, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.maximum(values, 0))
        draws: Array = mean[chosen].astype(np.float64) + normal @ root.T
        return draws

    def _truncate(self, n: int) -> None:
        dropped = self._rows[n : len(self._keys)]
        if len(dropped):
            self._variance = self._variance + (dropped * dropped).sum(axis=0)
            self._keys, self._seen = self._keys[:n], self._seen[:n]

    def _extend(self, keys: list[int], new: Array) -> None:
        n, m = len(self._keys), len(keys)
        self._reserve(n + m)
        own = self._covariance(new, new)
        own[np.diag_indices(m)] += self.known.noise + _JITTER * self.known.signal
        rows = self._pool_covariance(new)
        if n:
            cross = self._covariance(self._seen, new)
            cross = scipy.linalg.solve_triangular(self._factor[:n, :n], cross, lower=True, check_finite=False)
            self._factor[n : n + m, :n] = cross.T
            own -= cross.T @ cross
            rows -= cross.T.astype(np.float32) @ self._rows[:n]
        block = np.linalg.cholesky(own)
        self._factor[n : n + m, n : n + m] = block
        if m == 1:
            rows /= np.float32(block[0, 0])
        else:
            rows = scipy.linalg.solve_triangular(block.astype(np.float32), rows, lower=True, check_finite=False)
        self._rows[n : n + m] = rows
        self._variance = self._variance - (rows * rows).sum(axis=0)
        self._keys += keys
        self._seen = np.concatenate([self._seen, new])

    def _reserve(self, n: int) -> None:
        size = len(self._factor)
        if n <= size:
            return
        grown = max(n, size + size // 4)
        factor = np.zeros((grown, grown))
        factor[:size, :size] = self._factor
        rows = np.zeros((grown, self._rows.shape[1]), dtype=np.float32)
        rows[:size] = self._rows
        self._factor, self._rows = factor, rows

    def _covariance(self, a: Array, b: Array) -> Array:
        squared = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None] - 2 * a @ b.T
        root = _ROOT5 * np.sqrt(np.maximum(squared, 0))
        shape: Array = (1 + root + root * root / 3) * np.exp(-root)
        return self.known.signal * shape

    def _pool_covariance(self, new: Array) -> NDArray[np.float32]:
        """Covariance of observed configs with the pool. In single precision: it is large, and only ranks candidates."""
        other = new.astype(np.float32)
        root = (other * other).sum(axis=1)[:, None] + self._pool_norm[None] - 2 * other @ self._pool.T
        np.maximum(root, 0, out=root)
        np.sqrt(root, out=root)
        root *= np.float32(_ROOT5)
        rows: NDArray[np.float32] = (1 + root + root * root / 3) * np.exp(-root) * np.float32(self.known.signal)
        return rows

    @staticmethod
    def _expected(factor: Array, filled: Array, told: NDArray[np.bool_]) -> Array:
        """Mean of the configs in flight given the others, from their rows of the inverse."""
        open_rows = np.flatnonzero(~told)
        unit = np.zeros((len(filled), len(open_rows)))
        unit[open_rows, np.arange(len(open_rows))] = 1.0
        inverse = scipy.linalg.cho_solve((factor, True), unit, check_finite=False)
        expected: Array = np.linalg.solve(inverse[open_rows], -(inverse.T @ filled))
        return expected
