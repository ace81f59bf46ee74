"""Optuna's Gaussian process sampler, moved to the nearest valid and new config."""

from __future__ import annotations

from optuna.samplers import GPSampler

from tuner.search.config_table import ConfigTable
from tuner.search.samplers._tpe import WrappedSampler


class GPConfigSampler(WrappedSampler):
    """Loads torch and takes about a second per proposal. Optuna is asked once, since its optimum is fixed."""

    def __init__(self, table: ConfigTable, seed: int) -> None:
        super().__init__(table, seed, GPSampler(seed=seed), tries=1)
