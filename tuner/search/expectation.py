"""What a model expects of the configs of a search, and how far results have borne it out."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.parameters import Config
from tuner.search.config_table import ConfigTable
from tuner.search.gaussian_process.transform import Scale

_log = logging.getLogger(__name__)

Array = NDArray[np.float64]
Expect = Callable[[Config], float | None]
"""Expected value of a config, in the unit of the values that a search is told; None where nothing is expected."""

CLIMBERS = 16
"""Configs whose neighbours are looked at in each round of the climb."""
ROUNDS = 10
"""Most rounds of it."""
TIE = 1e-3
"""Expected values that are this close count as equal: models say nothing of many parameters."""
KEPT = 300
"""Best expected configs that always are candidates."""
ALIKE = 8
"""Most of them with one expected value."""


class Expectation:
    """Expected values of a table's rows.

    A model that raises, or says what is no number, is left alone from then on: it is a help and no part of the sweep.

    Args:
        table: The search's.
        expect: The model.
    """

    def __init__(self, table: ConfigTable, expect: Expect) -> None:
        self._table = table
        self._expect = expect
        self._known: dict[bytes, float] = {}
        self._broken = False
        self._best_rows: list[int] | None = None
        self.trust = 1.0
        """Factor on what the model says of differences between configs: 1 before any result, 0 where it is wrong."""

    def renew(self, expect: Expect) -> None:
        """Go on with a model that knows more: of other workloads of the same space, say. Its candidates stay those that
        the one before led to, if any, since the climb takes a second or more."""
        self._expect = expect
        self._known.clear()
        self._broken, self.trust = False, 1.0
        self._best_rows = self._best_rows or None

    def of(self, rows: Any) -> Array:
        """Expected value of each row, NaN where nothing is expected. Shape [rows]."""
        points = self._table.points[rows]
        return np.array([self._one(point) for point in points])

    def _one(self, point: NDArray[np.int16]) -> float:
        key = point.tobytes()
        if key not in self._known:
            self._known[key] = self._ask(self._table.encoding.config(point.tolist()))
        return self._known[key]

    def _ask(self, config: Config) -> float:
        if self._broken:
            return math.nan
        try:
            said = self._expect(config)
            value = math.nan if said is None else float(said)
        except Exception as error:  # whatever a family's or a user's model does must not end a sweep
            self._broken = True
            _log.warning(f"the space's model is not used: {type(error).__name__}: {error}")
            return math.nan
        return value if math.isfinite(value) else math.nan

    def climb(self) -> list[int]:
        """Free rows of the best expected configs that steps of one parameter lead to, from the rows of the table.

        In a listed space those of the whole list. Found once: whoever asks again must not have let them be forgotten.
        """
        table = self._table
        if self._best_rows is not None:
            return [row for row in self._best_rows if not table.taken[row]]
        if not table.complete:
            expanded: set[int] = set()
            for _ in range(ROUNDS):
                best = [row for row in self._best(CLIMBERS, 1) if row not in expanded]
                if not best:
                    break
                expanded.update(best)
                for row in best:
                    table.add(table.neighbours(tuple(int(c) for c in table.points[row])))
        self._best_rows = self._best(KEPT, ALIKE)
        return self._best_rows

    def _best(self, count: int, alike: int) -> list[int]:
        """Free rows by rising expectation; of those that differ by less than :data:`TIE` only the simplest."""
        table = self._table
        free = table.free()
        said = self.of(free)
        default = np.array(table.encoding.point(table.encoding.space.default))
        changed = (table.points[free] != default).sum(axis=1)
        steps = np.round(said / TIE)
        found: list[int] = []
        seen: dict[float, int] = {}
        for i in np.lexsort((changed, steps)):
            if len(found) >= count or not np.isfinite(said[i]):
                break
            seen[steps[i]] = seen.get(steps[i], 0) + 1
            if seen[steps[i]] <= alike:
                found.append(int(free[i]))
        return found

    def targets(self, rows: Any, known: Array, scale: Scale) -> Array:
        """What is trusted of the expectation for these rows, as targets; 0 where nothing is expected.

        Args:
            rows: Of the table.
            known: Expected minus told value of the finished rows.
            scale: The scale of the told values.
        """
        said = self.of(rows)
        known = known[np.isfinite(known)]
        offset = float(np.median(known)) if len(known) else 0.0
        out: Array = np.where(np.isfinite(said), self.trust * scale(np.nan_to_num(said) - offset), 0.0)
        return out
