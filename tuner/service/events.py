"""A sweep's progress as server-sent events, read from the database, so that any server process can send it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict

from db.records import SweepState
from db.store import Store
from tuner.results.documents import SweepHead, TrialRow
from tuner.results.status import heads
from tuner.service.views import trial_row

POLL_S = 0.5
KEEP_ALIVE_S = 15.0
BATCH = 200
"""Most trials that are sent before the state is read again."""


async def stream(
    store: Store, sweep_id: int, after: int, allowed: Callable[[], Awaitable[bool]]
) -> AsyncIterator[bytes]:
    """Events until the sweep's process is done: ``trial`` for each new trial, ``state`` on every change, then ``end``.

    Args:
        store: The store to read.
        sweep_id: An existing sweep.
        after: ID of the last trial that the client has, 0 for none. Every event carries such an ID, so that a client
            can continue after a lost connection.
        allowed: Whether the client may still listen; asked before each look at the database.
    """
    shown: SweepHead | None = None
    spoke_at = time.monotonic()
    while await allowed():
        # The state is read first: if the sweep has ended, the trials read after it are complete.
        state = await asyncio.to_thread(lambda: heads(store, [store.sweeps.get(sweep_id)])[0])
        trials = await asyncio.to_thread(store.trials.of, sweep_id, measurements=False, after_id=after, limit=BATCH)
        for trial in trials:
            after = trial.id
            yield event("trial", trial_row(trial), after)
        if state != shown:
            yield event("state", state, after)
        if trials or state != shown:
            spoke_at = time.monotonic()
        elif time.monotonic() - spoke_at > KEEP_ALIVE_S:
            yield b": still here\n\n"
            spoke_at = time.monotonic()
        shown = state
        if len(trials) == BATCH:
            continue
        if state.state != SweepState.RUNNING:
            yield event("end", state, after)
            return
        await asyncio.sleep(POLL_S)


def event(kind: str, data: SweepHead | TrialRow, last_id: int) -> bytes:
    """The bytes of one event."""
    return f"id: {last_id}\nevent: {kind}\ndata: {json.dumps(asdict(data), separators=(',', ':'))}\n\n".encode()
