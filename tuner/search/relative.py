"""What a related sweep suggests at the start of this one, and whether it is believed."""

from __future__ import annotations

import math

from tuner.search.ledger import Ledger
from tuner.search.model import Model


class Relative:
    """Suggests the first trials after the default; they are a test of the related sweep as well as a start.

    It is believed if all of them beat every trial of the space-filling start that follows them: of three and five
    trials that differ by chance alone, one in 56 does. Until then, and for good if they do not, the search goes on as
    if the suggestions had not been made, so that a relative that misleads costs these trials and nothing else.

    Args:
        ledger: Of this search.
        model: Has the related sweep's prediction as its trend.
        suggestions: Trials that it suggests.
        others: Trials of the space-filling start.
    """

    def __init__(self, ledger: Ledger, model: Model, suggestions: int, others: int) -> None:
        self.model: Model | None = model
        """None once it is not needed any more."""
        self.suggestions = suggestions
        self._ledger = ledger
        self._others = others
        self._wanted: set[int] = set()
        self.believed: bool | None = None
        """None until the trials that decide it are finished."""

    @property
    def aside(self) -> set[int]:
        """Rows of its suggestions that the search does not know of, as long as it is not believed."""
        return set() if self.believed else {*self._ledger.order[1 : 1 + self.suggestions]} - self._wanted

    def reveal(self, row: int) -> None:
        """The search would have proposed this suggestion by itself; it knows of it from now on."""
        self._wanted.add(row)

    def judge(self) -> None:
        """Decide, once the trials are finished."""
        values = self._ledger.values
        first = self._ledger.order[1 : 1 + self.suggestions + self._others]
        if len(first) == self.suggestions + self._others and all(row in values for row in first):
            results = [math.inf if (value := values[row]) is None else value for row in first]
            self.believed = max(results[: self.suggestions]) < min(results[self.suggestions :])
            if not self.believed:
                self.model = None
