"""How well any model could rank: medians repeat only so well, and one sweep's host is faster than another's.

A logarithm of a median is taken as that of the config, plus the sweep's offset on this workload, plus noise. Configs
that several sweeps measured give the offsets (least squares) and, pooled over the workloads of a size class, the noise.

Source: that noise bounds a correlation is C. Spearman's, The proof and measurement of association between two things,
1904; offsets beside effects are a two-way layout, as in H. Scheffé, The analysis of variance, 1959.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.search_physics.recorded import Recorded, Timed

CLASSES = (16, 256, 2048, 1 << 30)
"""Most tokens of the size classes in which the noise is taken to be alike: those of the sweeps' regimes."""
DRAWS = 200


@dataclass(frozen=True)
class Noise:
    """What a repetition on one workload differs by, in logarithms.

    Args:
        sigma: Standard deviation between two sweeps, their offsets taken out, of each of both.
        offsets: Sweep -> how much slower everything was there; a sweep without common configs has none.
        repeats: Medians of configs that several sweeps measured on this workload.
    """

    sigma: float
    offsets: Mapping[str, float]
    repeats: int


def noise_of(recorded: Recorded) -> dict[str, Noise]:
    """Workload -> its noise.

    Raises:
        ValueError: No workload of a size class has repeated configs enough.
    """
    squares: dict[int, float] = defaultdict(float)
    freedom: dict[int, int] = defaultdict(int)
    found, classes = {}, {}
    for workload, features in recorded.features.items():
        repeated = [t for group in _by_config(recorded.of(workload)).values() if len(group) > 1 for t in group]
        offsets, left, free = _two_ways(repeated)
        classes[workload] = next(i for i, most in enumerate(CLASSES) if features.axes["seq_len"] <= most)
        squares[classes[workload]] += left
        freedom[classes[workload]] += free
        found[workload] = offsets, len(repeated)
    if missing := [CLASSES[c] for c in set(classes.values()) if not freedom[c]]:
        raise ValueError(f"no config was measured twice on workloads of up to {missing} tokens")
    sigmas = {c: float(np.sqrt(squares[c] / freedom[c])) for c in set(classes.values())}
    return {w: Noise(sigmas[classes[w]], offsets, count) for w, (offsets, count) in found.items()}


def ceiling(timed: Sequence[Timed], noise: Noise, seed: int = 0) -> float:
    """Rank correlation that a model would have which knows how long every config really takes.

    What that is, is drawn from what the measurements of a config leave open: their mean, less the sweeps' offsets, plus
    noise. The draws are spread a little wider than the truth, so the ceiling is rather too high than too low.
    """
    from scipy.stats import rankdata

    took = np.log([t.us for t in timed])
    less = took - np.array([noise.offsets.get(t.sweep, 0.0) for t in timed])
    numbers: dict[tuple, int] = {}
    of = np.array([numbers.setdefault(_key(t), len(numbers)) for t in timed])
    count = np.bincount(of)
    mean = np.bincount(of, less) / count
    draw = np.random.default_rng(seed)
    true = draw.normal(mean, noise.sigma / np.sqrt(count), (DRAWS, len(count)))[:, of]
    ranks = rankdata(np.vstack([took, true]), axis=1)
    return float(np.corrcoef(ranks)[0, 1:].mean())


def _key(timed: Timed) -> tuple:
    return tuple(sorted((name, repr(value)) for name, value in timed.config.items()))


def _by_config(timed: Sequence[Timed]) -> dict[tuple, list[Timed]]:
    groups: dict[tuple, list[Timed]] = defaultdict(list)
    for t in timed:
        groups[_key(t)].append(t)
    return groups


def _two_ways(repeated: Sequence[Timed]) -> tuple[dict[str, float], float, int]:
    """Offsets of the sweeps, squares that configs and sweeps leave, and degrees of freedom of these."""
    sweeps = sorted({t.sweep for t in repeated})
    if not sweeps:
        return {}, 0.0, 0
    configs = {key: i for i, key in enumerate(_by_config(repeated))}
    columns: NDArray[np.float64] = np.zeros((len(repeated), len(configs) + len(sweeps)))
    for i, t in enumerate(repeated):
        columns[i, configs[_key(t)]] = columns[i, len(configs) + sweeps.index(t.sweep)] = 1.0
    took = np.log([t.us for t in repeated])
    # Least squares of the smallest norm: offsets are about zero on average.
    found, _, rank, _ = np.linalg.lstsq(columns, took - took.mean(), rcond=None)
    left = float(((took - took.mean() - columns @ found) ** 2).sum())
    offsets = found[len(configs) :] - found[len(configs) :].mean()
    return dict(zip(sweeps, offsets.tolist(), strict=True)), left, len(repeated) - int(rank)
