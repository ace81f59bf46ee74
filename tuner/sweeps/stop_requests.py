"""Stops a command at a safe point, on a signal; a sweep also on a request in the database."""

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
def noted_signals() -> Iterator[Callable[[], None]]:
    """Within this context, the yielded function raises ``KeyboardInterrupt`` once a signal asked to stop.

    The first SIGINT or SIGTERM is only noted, so that nothing is interrupted halfway. A second acts at once, for those
    who do not want to wait. SIGINT is handled even if a shell started the process in the background with the signal
    ignored. Outside the main thread signals cannot be handled, and the function does nothing.
    """
    signals: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        signals.append(number)
        if len(signals) > 1:
            raise KeyboardInterrupt

    def check() -> None:
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


@contextmanager
def stoppable(store: Store, sweep_id: int) -> Iterator[Callable[[], None]]:
    """As :func:`noted_signals`; a request to stop the sweep in the database counts as well."""
    asked_at = 0.0

    def check() -> None:
        nonlocal asked_at
        check_signals()
        now = time.monotonic()
        if now - asked_at >= POLL_S:
            asked_at = now
            if store.sweeps.stop_requested(sweep_id):
                raise KeyboardInterrupt

    with noted_signals() as check_signals:
        yield check
