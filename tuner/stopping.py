"""Ends a sweep from outside: a signal, or a request that somebody left in the database."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from db.errors import StoreError
from db.store import Store

POLL_S = 1.0

logger = logging.getLogger(__name__)


@contextmanager
def stoppable(store: Store, sweep_id: int) -> Iterator[None]:
    """Turns SIGINT, SIGTERM and a stop request into ``KeyboardInterrupt`` in the main thread while it lasts.

    SIGINT is set up again because a process that a shell started in the background ignores it. Outside the main
    thread nothing is done: only that thread can be interrupted.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(store, sweep_id, over), name="stop-requests", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _watch(store: Store, sweep_id: int, over: threading.Event) -> None:
    main = threading.main_thread().ident
    assert main is not None
    while not over.wait(POLL_S):
        try:
            requested = store.stop_requested(sweep_id)
        except StoreError as error:  # the sweep itself meets the same error, and decides what it means
            logger.warning("cannot look for stop requests: %s", error)
            continue
        if requested:
            signal.pthread_kill(main, signal.SIGINT)
            return
