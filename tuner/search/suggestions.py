"""The configs that a related sweep suggests at the start of this one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tuner.search.config_table import ConfigTable
from tuner.search.transfer import Transfer


class Relative:
    """Suggests the first trials after the default; the search is not influenced by it after that.

    The search goes on as if the suggestions had not been tried. A model that learned from them would look
    first where the related sweep was good, which may be far from where this space is best. This way a misleading sweep
    costs its suggestions and no more, and a good one has given its best configs.

    Args:
        table: ConfigTable of this search.
        transfer: Predictions from the related sweep.
        suggestions: Number of trials that it suggests.
    """

    def __init__(self, table: ConfigTable, transfer: Transfer, suggestions: int) -> None:
        self.suggestions = suggestions
        self._table = table
        self._transfer = transfer
        self.aside: set[int] = set()
        """Rows of suggestions that the search has not also proposed by itself. Not kept on resume."""

    def predict(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Predicted value of these rows in the related sweep; lower is better."""
        return self._transfer(self._table.points[rows])
