"""Shows that a sweep's process is alive while its workers start, and stops it there on request.

Starting takes from seconds to minutes, in calls that answer to signals alone; from then on the loop does both.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from db.errors import StoreError, SweepBusy
from db.store import Store
from tuner.sweeps.stop_requests import POLL_S

BEAT_S = 5.0
"""Seconds between signs of life."""
LEAVE_S = 5.0
"""Longest wait for the thread, which may be waiting for a database that is away; then it ends by itself."""


@contextmanager
def shown_alive(store: Store, sweep_id: int) -> Iterator[Callable[[], None]]:
    """Within this context a thread keeps the sweep's claim fresh, if this process has it, until the function that is
    yielded is called. A request to stop the sweep interrupts the main thread, as Ctrl-C does, if that is the one that
    waits here."""
    if not store.sweeps.holds(sweep_id):
        yield lambda: None
        return
    ended = threading.Event()
    main = threading.main_thread()
    is_main = threading.current_thread() is main

    def show() -> None:
        beaten_at = time.monotonic()
        while not ended.wait(POLL_S):
            try:
                if time.monotonic() - beaten_at >= BEAT_S:
                    store.sweeps.heartbeat(sweep_id)
                    beaten_at = time.monotonic()
                asked = store.sweeps.stop_requested(sweep_id)
            except SweepBusy:
                return  # the main thread meets the same at its next step, and says so
            except StoreError:
                continue  # the database may be back before the workers are up, and the claim must be fresh then
            if asked and is_main and not ended.is_set():
                signal.pthread_kill(main.ident or 0, signal.SIGINT)
                return

    thread = threading.Thread(target=show, daemon=True, name="sign of life")
    thread.start()

    def end() -> None:
        ended.set()
        thread.join(LEAVE_S)

    try:
        yield end
    finally:
        end()
