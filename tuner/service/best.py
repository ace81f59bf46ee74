"""The lookup that inference servers poll: answered from memory that is at most a second old."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from db.records import BestRow
from db.store import Store
from tuner.query import best_config

DEFINITIONS = 512
"""Definitions whose winners a server process keeps; the least recently asked for go first."""
ANSWERS = 4096
"""Answers kept for one definition."""


@dataclass(frozen=True)
class Answer:
    """A lookup's answer, ready to send. ``etag`` changes when the answer does, but not as its age grows."""

    body: bytes
    etag: str
    found: str


NOTHING = Answer(b"", "", "none")


@dataclass
class Rows:
    """The winners of one definition as they were at ``read_at``, in the shape in which the lookup asks for them."""

    read_at: float
    rows: Sequence[BestRow]
    answers: dict[tuple[Any, ...], Answer] = field(default_factory=dict)

    def best_rows(self, definition: str, *, hardware: str | None = None, target: str | None = None) -> list[BestRow]:
        """As :meth:`db.store.Store.best_rows`; all rows are of the one definition."""
        wanted = None if hardware is None else hardware.lower()
        return [
            row
            for row in self.rows
            if (wanted is None or row.environment.hardware.lower() == wanted) and target in (None, row.target)
        ]


class BestConfigs:
    """Best-config answers, each definition read from the database at most once per ``cache_s``.

    Owned by one event loop. While a definition is read, everybody who asks for it waits for the same query.
    """

    def __init__(self, store: Store, cache_s: float) -> None:
        self._store = store
        self._cache_s = cache_s
        self._kept: OrderedDict[str, Rows] = OrderedDict()
        self._reading: dict[str, asyncio.Task[Rows]] = {}

    async def answer(self, definition: str, axes: Mapping[str, int], hardware: str | None) -> Answer:
        """The answer for a problem size; :data:`NOTHING` if there is no record.

        Raises:
            StoreError: The database does not answer.
            UsageError: The question cannot be answered as it stands.
        """
        rows = await self._rows(definition)
        question = (tuple(sorted(axes.items())), hardware)
        known = rows.answers.get(question)
        if known is None:
            known = _answer(rows, definition, axes, hardware)
            if len(rows.answers) < ANSWERS:
                rows.answers[question] = known
        return known

    async def _rows(self, definition: str) -> Rows:
        kept = self._kept.get(definition)
        if kept is not None and time.monotonic() - kept.read_at < self._cache_s:
            self._kept.move_to_end(definition)
            return kept
        reading = self._reading.get(definition)
        if reading is None:
            reading = asyncio.create_task(self._read(definition))
            self._reading[definition] = reading
        return await asyncio.shield(reading)  # one client going away must not end the query that others wait for

    async def _read(self, definition: str) -> Rows:
        try:
            began = time.monotonic()
            rows = Rows(began, await asyncio.to_thread(self._store.best_rows, definition))
        finally:
            del self._reading[definition]
        self._kept[definition] = rows
        self._kept.move_to_end(definition)
        if len(self._kept) > DEFINITIONS:
            self._kept.popitem(last=False)
        return rows


def _answer(rows: Rows, definition: str, axes: Mapping[str, int], hardware: str | None) -> Answer:
    best = best_config(rows, definition, axes, hardware=hardware)
    if best is None:
        return NOTHING
    document = best.document()
    lasting = {k: v for k, v in document.items() if k != "age_s"}
    digest = hashlib.sha256(json.dumps(lasting, sort_keys=True, default=str).encode()).hexdigest()[:20]
    return Answer(json.dumps(document, default=str).encode(), f'"{digest}"', best.found)
