"""How well predictions rank and time what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.search_physics.noise import Noise, ceiling, noise_of
from benchmarks.search_physics.recorded import Recorded, Timed
from search_spaces.moe_fp8_cute.model import predict
from search_spaces.moe_fp8_cute.model_gemm import FittedConstants
from search_spaces.prediction.model import Hardware

FEWEST = 20
"""A workload with fewer configs is not ranked."""


@dataclass(frozen=True)
class Agreement:
    """The model on one workload.

    Args:
        workload: Its uuid.
        tokens: Its size.
        configs: Configs that were measured.
        spearman: Rank correlation of predicted and measured time.
        spearman_ceiling: What a model would have that knows how long every config really takes.
        best_of_ten: Best measured time of the ten that are predicted fastest, over the best of all.
        ratio: Median of predicted over measured.
        spread: Standard deviation of its logarithm.
        within_5: Configs that were measured within 5 % of the best.
    """

    workload: str
    tokens: int
    configs: int
    spearman: float
    spearman_ceiling: float
    best_of_ten: float
    ratio: float
    spread: float
    within_5: int


def agreement(
    recorded: Recorded,
    hardware: Hardware,
    constants: FittedConstants,
    sweeps: Sequence[str] | None = None,
    noise: Mapping[str, Noise] | None = None,
) -> list[Agreement]:
    """The model on every workload, by size; the noise is that of all that was recorded unless it is given."""
    found: list[Agreement] = []
    noise = noise_of(recorded) if noise is None else noise
    for workload in sorted(recorded.features, key=lambda u: (recorded.features[u].axes["seq_len"], u)):
        timed = [t for t in recorded.of(workload) if sweeps is None or t.sweep in sweeps]
        if len(timed) >= FEWEST:
            found.append(_on(recorded, workload, timed, hardware, constants, noise[workload]))
    return found


def _on(
    recorded: Recorded,
    workload: str,
    timed: Sequence[Timed],
    hardware: Hardware,
    constants: FittedConstants,
    noise: Noise,
) -> Agreement:
    from scipy.stats import spearmanr

    features = recorded.features[workload]
    said = np.array([predict(t.config, recorded.space.sizes, features, hardware, constants).us for t in timed])
    took = np.array([t.us for t in timed])
    first = np.argsort(said, kind="stable")[:10]
    return Agreement(
        workload=workload,
        tokens=features.axes["seq_len"],
        configs=len(timed),
        spearman=float(spearmanr(said, took)[0]),
        spearman_ceiling=ceiling(timed, noise),
        best_of_ten=float(took[first].min() / took.min()),
        ratio=float(np.median(said / took)),
        spread=float(np.std(np.log(said / took))),
        within_5=int((took <= 1.05 * took.min()).sum()),
    )
