"""The valid configs that a search knows of, and the result of each."""

from __future__ import annotations

import logging
import random
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from search_spaces.constraint_search import CPU_S, Effort, TooSparseError, Walk
from search_spaces.space import SearchSpace
from tuner.search.gaussian_process.encoding import Encoding, Point

_log = logging.getLogger(__name__)

LIST_LIMIT = 40_000
"""A space with more valid configs than this is sampled instead of listed."""
HOPELESS = 20.0
"""Listing is not tried if the estimated number of configs exceeds the limit by this factor."""
SAMPLE_START = 2_000
"""Number of configs drawn at the start if the space is not listed."""
SPARSE_CPU_S = 0.5
"""Seconds of CPU time for one question about a space of which hardly anything is valid; it would rarely help to look
longer, and whoever started the sweep is waiting."""


@dataclass
class ConfigTable:
    """Known valid configs as rows of ``points``, and the state of every row.

    A row never moves, so samplers refer to configs by row number. Where the space is small enough (``complete``)
    the rows are all valid configs; otherwise they are a sample that grows with :meth:`add` and shrinks with
    :meth:`forget_all_free_but`, so that a long search keeps what it tried and little else.

    Args:
        encoding: Encoding of the space.
        walk: Lists and samples the valid configs.
        points: Positions of values, shape [rows, parameters].
        complete: Whether the rows are all valid configs.
        taken: Rows that were proposed or observed; these are never proposed again. Shape [rows]. A row that was
            forgotten counts as taken until it is used for another config.
        rows: Row of each known point, by a key that is smaller than the point.
        order: The taken rows in the order in which they were taken.
        values: Objective per finished row in the order told; None is a failure.
    """

    encoding: Encoding
    walk: Walk
    points: NDArray[np.int16]
    complete: bool
    taken: NDArray[np.bool_]
    rows: dict[bytes, int]
    order: list[int] = field(default_factory=list)
    values: dict[int, float | None] = field(default_factory=dict)
    sparse: bool = False
    """Whether valid configs are so rare that drawing another one takes long."""
    given_up: bool = False
    """Whether another config was looked for, and none was found within the effort that is spent on it."""

    def __post_init__(self) -> None:
        self._room = (self.points, self.taken)
        self._vacant: list[int] = []

    @classmethod
    def of(cls, space: SearchSpace, rng: random.Random) -> ConfigTable:
        """The table of a space: all valid configs if they can be listed, else a sample of them."""
        encoding, walk = Encoding(space), space.walk
        first = _first_look(walk, space.name, rng)
        distinct = list(dict.fromkeys(first.points))
        points = np.array(distinct, dtype=np.int16).reshape(len(distinct), len(encoding.names))
        rows = {_key(point): row for row, point in enumerate(distinct)}
        taken = np.zeros(len(rows), dtype=np.bool_)
        return cls(encoding, walk, points, first.complete, taken, rows, sparse=first.sparse)

    def add(self, points: Iterable[Point]) -> list[int]:
        """Rows of valid points; unknown ones are appended."""
        found = []
        for point in points:
            key = _key(point)
            row = self.rows.get(key)
            if row is None:
                row = self._vacant.pop() if self._vacant else self._append()
                self.rows[key], self.points[row], self.taken[row] = row, point, False
            found.append(row)
        return found

    def forget_all_free_but(self, kept: NDArray[np.intp]) -> None:
        """Drop all other configs that were not taken; their rows are used again. Not for a complete table, and not
        where others are hard to find."""
        if self.complete or self.sparse:
            return
        dropped = np.setdiff1d(self.free(), kept)
        for row, point in zip(dropped.tolist(), self.points[dropped].tolist(), strict=True):
            del self.rows[_key(point)]
            self._vacant.append(row)
        self.taken[dropped] = True

    def _append(self) -> int:
        """Add a row at the end. Arrays grow ahead of need, since copying all rows for each new one would be slow.

        ``points`` and ``taken`` are views of the used part of the arrays.
        """
        points, taken = self._room
        count = len(self.points) + 1
        if count > len(points):
            more = 64 + len(self.points) // 4
            points = np.concatenate([self.points, np.zeros((more, points.shape[1]), dtype=np.int16)])
            taken = np.concatenate([self.taken, np.zeros(more, dtype=np.bool_)])
            self._room = (points, taken)
        self.points, self.taken = points[:count], taken[:count]
        return count - 1

    def take(self, row: int) -> None:
        """Mark a row as taken: it was proposed, or came with its result."""
        if not self.taken[row]:
            self.taken[row] = True
            self.order.append(row)

    def settle(self, row: int, value: float | None) -> None:
        """Record the result of a taken row; None for a failure."""
        self.values[row] = value

    def free(self) -> NDArray[np.intp]:
        """Rows that were not taken yet."""
        return np.flatnonzero(~self.taken)

    def any_free(self, rng: random.Random) -> bool:
        """Whether any config is left; in a space that is not listed this may search for one."""
        return not bool(self.taken.all()) or self.random_free(rng) is not None

    def valid(self, point: Point) -> bool:
        """Whether a point obeys the constraints."""
        if _key(point) in self.rows:
            return True
        return not self.complete and self.encoding.space.is_valid(self.encoding.config(point))

    def neighbours(self, point: Point) -> list[Point]:
        """Valid points that differ in one parameter."""
        out = []
        for i, size in enumerate(self.encoding.sizes):
            for code in range(size):
                if code != point[i]:
                    other = (*point[:i], code, *point[i + 1 :])
                    if self.valid(other):
                        out.append(other)
        return out

    def random_free(self, rng: random.Random) -> int | None:
        """A random free row, None if there is none. If the space is not listed it may be a config new to the table."""
        effort = Effort(cpu_s=SPARSE_CPU_S) if self.sparse else Effort()
        drawn = None if self.complete or self.sparse else self._draw(rng, effort)
        free = self.free()
        if drawn is None and len(free):
            return int(free[rng.randrange(len(free))])
        if drawn is not None or self.complete or self.given_up:
            return drawn
        found = self._draw(rng, effort) if self.sparse else None
        return self._next_listed(effort) if found is None else found

    def _draw(self, rng: random.Random, effort: Effort) -> int | None:
        """A random free row, None if none was drawn."""
        try:
            for _ in range(20):
                (row,) = self.add([self.walk.sample(rng, effort)])
                if not self.taken[row]:
                    return row
        except TooSparseError:
            self.sparse = True
        return None

    def _next_listed(self, effort: Effort) -> int | None:
        """The first free config in the space's own order; None if the space is exhausted, or it takes too long."""
        try:
            for point in self.walk.points(effort):
                (row,) = self.add([point])
                if not self.taken[row]:
                    return row
            self.complete = True
        except TooSparseError:
            self.given_up = True
        return None


@dataclass(frozen=True)
class _FirstLook:
    """The configs that a search knows before its first trial."""

    points: list[Point]
    complete: bool
    sparse: bool


_LOOKS: WeakKeyDictionary[Walk, _FirstLook] = WeakKeyDictionary()
"""First looks at sparse spaces, which are costly, kept for the other regimes of a sweep."""


def _first_look(walk: Walk, name: str, rng: random.Random) -> _FirstLook:
    """All valid configs if they can be listed; else a sample of them, as large as it gets within seconds."""
    estimate = walk.size(rng)
    if walk in _LOOKS:
        return _LOOKS[walk]
    cpu_s = CPU_S if estimate else SPARSE_CPU_S
    listed = walk.all(LIST_LIMIT, Effort(cpu_s=cpu_s)) if estimate < HOPELESS * LIST_LIMIT else None
    if listed is not None:
        return _FirstLook(listed, complete=True, sparse=False)
    effort = Effort(cpu_s=cpu_s)
    found: list[Point] = []
    try:
        while len(found) < SAMPLE_START:
            found.append(walk.sample(rng, effort, found[-1] if found else None))
    except TooSparseError:
        pass
    look = _FirstLook(found, complete=False, sparse=effort.used_up)
    if walk.is_sparse or look.sparse:
        _LOOKS[walk] = look
        seen = f"{len(set(found)) or 'none'} found in {effort.spent:,} checks"
        more = "the search has these and the default to try" if look.sparse else "the search finds others as it goes"
        _log.warning(f"space {name!r}: hardly any combination is valid; {seen}, and {more}")
    return look


def _key(point: Sequence[int]) -> bytes:
    """A point as bytes, two for each parameter: smaller than a tuple."""
    return array("H", point).tobytes()
