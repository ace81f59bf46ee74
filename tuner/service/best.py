"""The lookup that inference servers poll, answered from records that are at most a second old."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from db.queries.lookups import Lookups
from db.records import BestRow
from tuner.errors import UsageError
from tuner.results.best_config import Match, checked_target, find, nothing_found
from tuner.results.best_config import answer as answered
from tuner.service.metrics import LOOKUPS
from tuner.service.middleware.problems import ProblemError
from tuner.service.models import Lookup, LookupHeaders

DEFINITIONS = 512
"""Most definitions whose winners a server process keeps; the least recently used are dropped."""
ANSWERS = 4096
"""Most answers kept for one definition, until its records change."""
MAX_AGE_S = 5
"""How old an answer may become, in this server's memory and the client's cache together."""
HARDWARE_HEADER = "Tuner-Hardware"

Question = tuple[tuple[tuple[str, int], ...], str | None, str | None, str | None]
"""Sizes by axis, in order, hardware, target and profile."""


@dataclass(frozen=True)
class Answer:
    """A lookup's answer, ready to send. ``etag`` changes with the answer, but not with its age."""

    found: str
    etag: str = ""
    text: str = ""
    finished_at: float = 0.0

    def body(self, now: float) -> bytes:
        """The document with its present age."""
        return f'{self.text}, "age_s": {max(0.0, now - self.finished_at):.3f}}}'.encode()


NOTHING = Answer("none")


@dataclass
class Records:
    """The winners of one definition as they were at ``read_at``, by hardware, with the answers made from them."""

    stamp: tuple[Any, ...]
    rows: Sequence[BestRow]
    read_at: float = 0.0
    renew_at: float = 0.0
    answers: dict[Question, Answer] = field(default_factory=dict)
    texts: dict[tuple[int, str, str, float, str], Answer] = field(default_factory=dict)

    def on(self, hardware: str | None, target: str | None) -> Sequence[BestRow]:
        """The rows of one hardware model, whatever the case of its name, and one target; None stands for all."""
        rows = self.rows
        if hardware is not None:
            wanted = hardware.lower()
            rows = [row for row in rows if row.environment.hardware.lower() == wanted]
        return rows if target is None else [row for row in rows if row.target == target]

    def answer(self, definition: str, question: Question) -> Answer:
        """The answer to a question about this definition.

        Raises:
            UsageError: The question is incomplete or ambiguous.
        """
        known = self.answers.get(question)
        if known is None:
            sizes, hardware, target, profile = question
            match = find(self.on(hardware, checked_target(target)), definition, dict(sizes), profile)
            known = NOTHING if match is None else self._text(match)
            if len(self.answers) < ANSWERS:
                self.answers[question] = known
        return known

    def _text(self, match: Match) -> Answer:
        """The answer for a match. Most sizes of a regime share one; writing it is the expensive part, so it is kept."""
        workload = "" if match.workload is None else match.workload.workload
        key = (id(match.row), match.found, match.detail, match.distance, workload)
        if key not in self.texts:
            if len(self.texts) >= ANSWERS:
                self.texts.clear()
            document = answered(match, 0.0).document()
            del document["age_s"]
            text = json.dumps(document, default=str)
            digest = hashlib.sha256(text.encode()).hexdigest()[:20]
            self.texts[key] = Answer(match.found, f'"{digest}"', text[:-1], match.row.finished_at)
        return self.texts[key]


class BestConfigs:
    """Best-config answers from records that are at most ``cache_s`` old.

    A question late in that time is answered at once and starts the next read, so nobody waits for a definition that is
    polled. Otherwise everybody who asks waits for the same query.

    Owned by one event loop.

    Args:
        known: Where to read.
        cache_s: How old records may be.
        clock: A monotonic clock in seconds.
    """

    def __init__(self, known: Lookups, cache_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._known = known
        self._cache_s = cache_s
        self._clock = clock
        self._kept: OrderedDict[str, Records] = OrderedDict()
        self._reading: dict[str, asyncio.Task[Records]] = {}

    async def answer(
        self,
        definition: str,
        axes: Mapping[str, int],
        hardware: str | None,
        profile: str | None = None,
        target: str | None = None,
    ) -> tuple[Answer, int]:
        """The answer for a problem size, target and profile, :data:`NOTHING` if there is no record; and how many
        seconds old it may be.

        Raises:
            StoreError: The database does not answer.
            UsageError: The question is incomplete or ambiguous.
        """
        records = await self._records(definition)
        answer = records.answer(definition, (tuple(sorted(axes.items())), hardware, target, profile))
        return answer, math.ceil(self._clock() - records.read_at)

    async def _records(self, definition: str) -> Records:
        kept, now = self._kept.get(definition), self._clock()
        fresh = kept is not None and now < kept.read_at + self._cache_s
        if kept is not None and fresh and now < kept.renew_at:
            self._kept.move_to_end(definition)
            return kept
        reading = self._reading.get(definition)
        if reading is None:
            reading = self._reading[definition] = asyncio.create_task(self._read(definition))
            reading.add_done_callback(_look_at)
        if kept is not None and fresh:
            return kept
        return await asyncio.shield(reading)  # one client going away must not end the query that others wait for

    async def _read(self, definition: str) -> Records:
        began = self._clock()
        try:
            records = await asyncio.to_thread(self._look, definition, self._kept.get(definition))
        finally:
            del self._reading[definition]
        records.read_at = began
        # Spread over time: if all definitions were read at once, every lookup would queue behind them once a second.
        records.renew_at = began + self._cache_s * random.uniform(0.4, 0.7)
        self._kept[definition] = records
        self._kept.move_to_end(definition)
        if len(self._kept) > DEFINITIONS:
            self._kept.popitem(last=False)
        return records

    def _look(self, definition: str, kept: Records | None) -> Records:
        """The kept records if the database still holds the same, else new ones."""
        stamp = self._known.stamp(definition)  # before the rows: a change in between is noticed next time
        if kept is not None and kept.stamp == stamp:
            return kept
        return Records(stamp, self._known.rows(definition))


def _look_at(reading: asyncio.Task[Records]) -> None:
    """Retrieve the error of a read that nobody waits for; whoever needs the records reads again."""
    if not reading.cancelled():
        reading.exception()


async def respond(best: BestConfigs, asked: Lookup, told: LookupHeaders) -> Response:
    """The response to a lookup; 304 if the client already has the answer.

    Raises:
        ProblemError: There is no answer, or the question is incomplete or ambiguous.
        StoreError: The database does not answer.
    """
    hardware = told.tuner_hardware if asked.hardware == "auto" else asked.hardware
    if asked.hardware == "auto" and hardware is None:
        raise ProblemError(422, f"hardware=auto needs the header {HARDWARE_HEADER} with the GPU's or CPU's name")
    try:
        answer, age_s = await best.answer(asked.definition, asked.sizes, hardware, asked.profile, asked.target)
    except UsageError as error:
        raise ProblemError(422, str(error)) from None
    LOOKUPS.labels(answer.found).inc()
    if answer is NOTHING:
        raise ProblemError(
            404,
            nothing_found(asked.definition, asked.axes, hardware, asked.target),
            kind="no-record",
            title="No record",
            more={"found": "none"},
        )
    headers = {
        "ETag": answer.etag,
        "Cache-Control": f"private, max-age={MAX_AGE_S}",
        "Age": str(age_s),
        "Vary": f"Authorization, {HARDWARE_HEADER}",
    }
    if told.if_none_match is not None and answer.etag in told.if_none_match:
        return Response(status_code=304, headers=headers)
    return Response(answer.body(time.time()), media_type="application/json", headers=headers)
