"""Optuna's Gaussian process sampler, moved to the nearest valid and new config."""

from __future__ import annotations

from optuna.samplers import GPSampler

from tuner.search.candidates import Ledger
from tuner.search.samplers._tpe import OptunaStrategy


class GPStrategy(OptunaStrategy):
    """Loads torch and takes about a second per proposal. Optuna is asked once, since its optimum is fixed."""

    def __init__(self, ledger: Ledger, seed: int) -> None:
        super().__init__(ledger, seed, GPSampler(seed=seed), tries=1)
