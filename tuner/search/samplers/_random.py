"""Random search without replacement."""

from __future__ import annotations

from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial

from tuner.search.samplers._base import ConfigSampler


class RandomConfigSampler(ConfigSampler):
    """Uniform over the valid configs that were not proposed yet."""

    def propose(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> int:
        return self.random_row()
