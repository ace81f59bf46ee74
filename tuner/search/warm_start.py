"""What a related sweep suggests at the start of this one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tuner.search.candidates import Ledger
from tuner.search.transfer import Transfer


class Relative:
    """Suggests the first trials after the default, and is not heard again.

    The search goes on as if the suggestions had not been tried. A model that learns from them looks first where the
    relative is good, which may be far from where this space is best; this way a relative that misleads costs its
    suggestions and nothing else, and one that is right has given its best configs.

    Args:
        ledger: Of this search.
        transfer: What the related sweep says of this space.
        suggestions: Trials that it suggests.
    """

    def __init__(self, ledger: Ledger, transfer: Transfer, suggestions: int) -> None:
        self.suggestions = suggestions
        self._ledger = ledger
        self._transfer = transfer
        self.aside: set[int] = set()
        """Rows of its suggestions, as far as the search does not know of them. Not kept over a resume."""

    def predict(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Standing of these rows in the related sweep; lower is better."""
        return self._transfer(self._ledger.points[rows])
