"""Ends a sweep from outside, at a safe point of its loop: a signal, or a request that somebody left in the database."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from db.store import Store

POLL_S = 1.0
"""How often the database is asked; the loop passes its safe point about as often."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stoppable(store: Store, sweep_id: int) -> Iterator[Callable[[], None]]:
    """While it lasts, the yielded function raises ``KeyboardInterrupt`` once a stop was asked for.

    SIGINT and SIGTERM are only noted, so that no commit is cut in two; a second one is not deferred, since whoever
    presses Ctrl-C twice does not want to wait. SIGINT is set up even where a shell started the process in the
    background and had it ignored. Outside the main thread signals are not ours: only requests count there.
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
            if store.stop_requested(sweep_id):
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
