"""All valid configs, in the order of the space's parameter lists."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial

from search_spaces.constraint_search import Effort, TooSparseError
from tuner.search.config_table import ConfigTable
from tuner.search.samplers._base import ConfigSampler


class GridConfigSampler(ConfigSampler):
    """Lexicographic; for spaces that are meant to be measured completely."""

    def __init__(self, table: ConfigTable, seed: int) -> None:
        super().__init__(table, seed)
        self._order = self._rows()

    def _rows(self) -> Iterator[int]:
        with contextlib.suppress(TooSparseError):
            for point in self.table.walk.points(Effort() if self.table.walk.is_sparse else None):
                (row,) = self.table.add([point])
                yield row

    def propose(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> int:
        for row in self._order:
            if not self.table.taken[row]:
                return row
        return self.random_row()
