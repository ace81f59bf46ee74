"""The base of all samplers: an Optuna sampler that proposes valid configs that were not proposed before.

A sampler knows what its study knows: Optuna asks it for each new trial, and tells it each result.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from search_spaces.parameters import Config, Scalar
from tuner.search.config_table import ConfigTable
from tuner.search.expectation import Expect
from tuner.search.stopping_rule import Outlook


class ConfigSampler(BaseSampler):
    """A sampler over the rows of a table.

    Args:
        table: What the sampler has learnt from its study, by row. The search marks in it what it proposes.
        seed: Seed of all random choices.
    """

    def __init__(self, table: ConfigTable, seed: int) -> None:
        self.table = table
        self.rng = random.Random(seed)
        encoding = table.encoding
        self.distributions: dict[str, BaseDistribution] = {
            n: CategoricalDistribution(c) for n, c in zip(encoding.names, encoding.choices, strict=True)
        }
        """Every parameter as a categorical distribution."""

    @abstractmethod
    def propose(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> int:
        """The row of a free config. Called only while there is one."""

    def learn_from(self, prior: Sequence[tuple[Config, float | None]]) -> None:
        """Learn from finished trials of a related sweep. Called once, before the first proposal; ignored by default."""

    def expect(self, expect: Expect) -> None:
        """Take what a model expects of configs as a first guess, before the first proposal, and instead of an earlier
        one; ignored by default."""

    def prepare(self) -> None:
        """Find out ahead what is expected of configs; nothing by default."""

    def learn_beside(self, place: float, siblings: Sequence[ConfigSampler]) -> None:
        """Learn also from the samplers of other sizes of the same space; not all samplers do.

        Args:
            place: Where this one is among them, in [0, 1].
            siblings: The others.
        """

    def suggested(self, row: int) -> None:
        """Called before a config is proposed because a related sweep suggests it; ignored by default."""

    def outlook(self) -> Outlook | None:
        """What more trials may gain, None if the sampler has no model."""
        return None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All parameters: they are sampled together."""
        return self.distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Scalar]:
        """A whole config at once: constraints make parameters dependent."""
        row = self.propose(study, trial, search_space)
        return self.table.encoding.optuna_params([int(c) for c in self.table.points[row]])

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Not available: a single parameter cannot be chosen without the others."""
        raise NotImplementedError(f"parameter {param_name!r} is not part of the search space")

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Learn a result. Optuna calls this when the study is told."""
        self.table.settle(self._row(trial), values[0] if values and state is TrialState.COMPLETE else None)

    def read(self, study: Study) -> None:
        """Learn the finished trials of a study that came into it in another way: of an earlier process."""
        for trial in study.get_trials(deepcopy=False):
            row = self._row(trial)
            if trial.state.is_finished() and row not in self.table.values:
                self.table.take(row)
                self.table.settle(row, trial.value)

    def _row(self, trial: FrozenTrial) -> int:
        return self.table.add([self.table.encoding.point_of_params(trial.params)])[0]

    def random_row(self) -> int:
        """A random free row."""
        row = self.table.random_free(self.rng)
        if row is None:
            raise RuntimeError("a sampler was asked although no config is left")
        return row

    def nearest_free(self, point: Sequence[int]) -> int:
        """The free row that differs least from a point: fewest parameters, then fewest positions."""
        free = self.table.free()
        if not len(free):
            return self.random_row()
        apart = np.abs(self.table.points[free].astype(np.int64) - np.asarray(point, dtype=np.int64))
        cost = (apart != 0).sum(axis=1) * 1_000_000 + apart.sum(axis=1)
        return int(free[int(np.argmin(cost))])
