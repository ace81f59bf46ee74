"""Optuna's TPE, asked again until its config is valid and new."""

from __future__ import annotations

from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from tuner.search.config_table import ConfigTable
from tuner.search.samplers._base import ConfigSampler

TRIES = 50
"""Draws after which the nearest free config is taken instead."""


class WrappedSampler(ConfigSampler):
    """Wraps an Optuna sampler that knows neither constraints nor earlier proposals.

    Args:
        table: See :class:`ConfigSampler`.
        seed: See :class:`ConfigSampler`.
        inner: The wrapped sampler.
        tries: Draws before the free config nearest to the last draw is taken.
    """

    def __init__(self, table: ConfigTable, seed: int, inner: BaseSampler, tries: int) -> None:
        super().__init__(table, seed)
        self._inner = inner
        self._tries = tries

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Pass the call on to the wrapped sampler."""
        self._inner.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: Any, values: Any) -> None:
        """Learn a result, and pass it on to the wrapped sampler."""
        super().after_trial(study, trial, state, values)
        self._inner.after_trial(study, trial, state, values)

    def propose(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> int:
        space = {n: d for n, d in search_space.items() if not d.single()}
        encoding = self.table.encoding
        row = None
        for _ in range(self._tries):
            params = self._inner.sample_relative(study, trial, space)
            if not params:
                return self.random_row()
            singles = {n: c[0] for n, c in zip(encoding.names, encoding.choices, strict=True) if n not in space}
            point = encoding.point_of_params({**singles, **params})
            if self.table.valid(point):
                (row,) = self.table.add([point])
                if not self.table.taken[row]:
                    return row
        return self.nearest_free(point)


class TPEConfigSampler(WrappedSampler):
    """Multivariate TPE with a constant liar for the trials in flight."""

    def __init__(self, table: ConfigTable, seed: int) -> None:
        super().__init__(table, seed, TPESampler(seed=seed, multivariate=True, constant_liar=True), TRIES)
