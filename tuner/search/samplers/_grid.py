"""All valid configs, in the order of the space's parameter lists."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial

from search_spaces.constraint_search import Effort, TooSparseError
from tuner.search.candidates import Ledger
from tuner.search.samplers._base import Strategy


class GridStrategy(Strategy):
    """Lexicographic; for spaces that are meant to be measured completely."""

    def __init__(self, ledger: Ledger, seed: int) -> None:
        super().__init__(ledger, seed)
        self._order = self._rows()

    def _rows(self) -> Iterator[int]:
        with contextlib.suppress(TooSparseError):
            for point in self.ledger.walk.points(Effort() if self.ledger.sparse else None):
                (row,) = self.ledger.add([point])
                yield row

    def propose(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> int:
        for row in self._order:
            if not self.ledger.taken[row]:
                return row
        return self.random_row()
