"""What an interrupt says: nothing, until somebody knows what was begun and how to go on with it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

AFTER_S = 0.05
"""Seconds after which a signal that came during a fork is sent again: the fork is over by then."""


def is_silent_interrupt(error: BaseException) -> bool:
    """Whether it is an interrupt that does not say how to go on. Ray's answer to SIGTERM, while it starts, is an exit
    with its number."""
    if isinstance(error, SystemExit):
        return error.code == signal.SIGTERM
    return isinstance(error, KeyboardInterrupt) and not error.args


@contextmanager
def nothing_begun(resume: int | None) -> Iterator[None]:
    """Say of an interrupt in this context that nothing has begun, unless it says something itself."""
    try:
        yield
    except BaseException as error:
        if not is_silent_interrupt(error):
            raise
        untouched = "no sweep was begun" if resume is None else f"sweep {resume} is as it was"
        raise KeyboardInterrupt(f"{untouched}; the same command starts anew") from None


def outlive_forks(*numbers: int) -> None:
    """Have these signals wait while the main thread forks, in all of this process's life. Python drops what a handler
    raises in the hooks around a fork: the signal would be lost, and logging's lock, which they hold, never released."""
    handlers: dict[int, Any] = {}
    came: list[int] = []

    def hold() -> None:
        if threading.current_thread() is threading.main_thread():
            for number in numbers:
                if signal.getsignal(number) is not None:  # not Python's, so it raises nothing
                    handlers[number] = signal.signal(number, lambda number, _: came.append(number))

    def forget() -> None:
        while handlers:
            signal.signal(*handlers.popitem())
        came.clear()

    def let_go() -> None:
        for number in came:
            again = threading.Timer(AFTER_S, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
        forget()

    os.register_at_fork(before=hold, after_in_parent=let_go, after_in_child=forget)
