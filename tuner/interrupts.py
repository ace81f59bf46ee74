"""What an interrupt says: nothing, until somebody knows what was begun and how to go on with it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


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
