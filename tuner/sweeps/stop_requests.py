"""Stops a sweep at a safe point of its loop, on a signal or on a request in the database."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from db.store import Store

POLL_S = 1.0
"""Seconds between looks for a request; the loop passes its safe point about as often."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stoppable(store: Store, sweep_id: int) -> Iterator[Callable[[], None]]:
    """Within this context, the yielded function raises ``KeyboardInterrupt`` once a stop was requested.

    The first SIGINT or SIGTERM is only noted, so that no commit is interrupted. A second acts at once, for those who
    do not want to wait. SIGINT is handled even if a shell started the process in the background with the signal
    ignored. Outside the main thread signals cannot be handled; only requests count there.
    """
    signals: list[int] = []
    asked_at = [0.0]

    def note(number: int, _frame: FrameType | None) -> None:
        signals.append(number)
        if len(signals) > 1:
            raise KeyboardInterrupt

    def check() -> None:
        now = time.monotonic()
        if not signals and now - asked_at[0] >= POLL_S:
            asked_at[0] = now
            if store.sweeps.stop_requested(sweep_id):
                raise KeyboardInterrupt
        if signals:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
