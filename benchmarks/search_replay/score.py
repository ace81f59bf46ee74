"""Figures of the benchmark: best so far over the optimum, shares near it, and the score against random search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.search_replay.recording import Recording

NEAR = 1.02
"""A run within this factor of the optimum has found it for all practical purposes."""


@dataclass(frozen=True)
class SpaceFigures:
    """One strategy on one space; a value per budget.

    Args:
        median: Median over seeds of the best so far over the optimum.
        mean: Mean over seeds of the same.
        near: Share of runs within 2 % of the optimum.
        score: ``(R - mean) / (R - 1)`` with R the expectation of random search: 0 is random search, 1 perfect.
    """

    median: tuple[float, ...]
    mean: tuple[float, ...]
    near: tuple[float, ...]
    score: tuple[float, ...]


@dataclass(frozen=True)
class Summary:
    """One strategy over all spaces; a value per budget."""

    geomean_of_medians: tuple[float, ...]
    near: tuple[float, ...]
    score: tuple[float, ...]


def curve(recording: Recording, rows: Sequence[int], length: int, raced: Sequence[bool] = ()) -> NDArray[np.float64]:
    """Best so far over the optimum after 1, 2, ... evaluations.

    Before the first success it is the worst recorded time over the optimum. A run that ended early, since the space
    was exhausted, keeps its last value.

    Args:
        recording: The space.
        rows: What was evaluated, in order.
        length: Evaluations of the curve.
        raced: Which of the rows were raced out, and so not found; none without it.
    """
    times = np.array([np.nan if t is None else t for t in recording.time_ms], dtype=np.float64)
    found = times[list(rows[:length])]
    found[np.flatnonzero(raced[:length])] = np.nan
    found = np.where(np.isnan(found), np.nanmax(times), found)
    best: NDArray[np.float64] = np.minimum.accumulate(found) / recording.optimum_ms
    return np.concatenate([best, np.full(length - len(best), best[-1])])


def random_expectation(recording: Recording, evaluations: int) -> float:
    """Exact mean of the best of that many configs drawn without replacement, over the optimum.

    With values sorted from the best, the chance that the first i are all missed is the product of
    ``(n - N - j) / (n - j)`` for j < i; draws that meet only failures count as the worst time, as in :func:`curve`.
    """
    times = np.sort([t for t in recording.time_ms if t is not None])
    n = len(recording.time_ms)
    j = np.arange(len(times))
    missed = np.cumprod(np.maximum(n - evaluations - j, 0) / (n - j))
    before = np.concatenate([[1.0], missed[:-1]])
    expected = float(((before - missed) * times).sum() + missed[-1] * times[-1])
    return expected / recording.optimum_ms


def figures(recording: Recording, curves: NDArray[np.float64], budgets: Sequence[int]) -> SpaceFigures:
    """Figures of all runs on one space.

    Args:
        recording: The space.
        curves: From :func:`curve`, shape [seeds, evaluations].
        budgets: Numbers of evaluations.
    """
    at = curves[:, [b - 1 for b in budgets]]
    means = at.mean(axis=0)
    random = [random_expectation(recording, b) for b in budgets]
    return SpaceFigures(
        median=tuple(float(x) for x in np.median(at, axis=0)),
        mean=tuple(float(x) for x in means),
        near=tuple(float(x) for x in (at <= NEAR).mean(axis=0)),
        score=tuple(float((r - m) / (r - 1)) if r > 1 else 1.0 for r, m in zip(random, means, strict=True)),
    )


def summary(spaces: Sequence[SpaceFigures]) -> Summary:
    """Over spaces: geometric mean of medians, mean of shares, mean of scores."""
    medians = np.array([s.median for s in spaces])
    return Summary(
        geomean_of_medians=tuple(float(x) for x in np.exp(np.log(medians).mean(axis=0))),
        near=tuple(float(x) for x in np.mean([s.near for s in spaces], axis=0)),
        score=tuple(float(x) for x in np.mean([s.score for s in spaces], axis=0)),
    )
