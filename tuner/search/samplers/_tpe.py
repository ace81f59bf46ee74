"""Optuna's TPE, asked again until its config is valid and new."""

from __future__ import annotations

from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from tuner.search.candidates import Ledger
from tuner.search.samplers._base import Strategy

TRIES = 50
"""Draws after which the nearest free config is taken instead."""


class OptunaStrategy(Strategy):
    """Wraps an Optuna sampler that knows neither constraints nor earlier proposals.

    Args:
        ledger: See :class:`Strategy`.
        seed: See :class:`Strategy`.
        inner: The wrapped sampler.
        tries: Draws before the free config nearest to the last draw is taken.
    """

    def __init__(self, ledger: Ledger, seed: int, inner: BaseSampler, tries: int) -> None:
        super().__init__(ledger, seed)
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
        encoding = self.ledger.encoding
        row = None
        for _ in range(self._tries):
            params = self._inner.sample_relative(study, trial, space)
            if not params:
                return self.random_row()
            singles = {n: c[0] for n, c in zip(encoding.names, encoding.choices, strict=True) if n not in space}
            point = encoding.point_of_params({**singles, **params})
            if self.ledger.valid(point):
                (row,) = self.ledger.add([point])
                if not self.ledger.taken[row]:
                    return row
        return self.nearest_free(point)


class TPEStrategy(OptunaStrategy):
    """Multivariate TPE with a constant liar for the trials in flight."""

    def __init__(self, ledger: Ledger, seed: int) -> None:
        super().__init__(ledger, seed, TPESampler(seed=seed, multivariate=True, constant_liar=True), TRIES)
