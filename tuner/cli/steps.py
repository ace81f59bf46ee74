"""Shows what a command is doing: one line that is updated on a terminal, otherwise an occasional line."""

from __future__ import annotations

import time
from typing import Any

from tuner.cli.output import stderr
from tuner.progress import Steps

LINE_EVERY_S = 10.0
"""Seconds between two lines of the same step without a terminal."""


class StepView(Steps):
    """Shows steps on stderr. A context manager; used by one thread."""

    def __init__(self) -> None:
        self._console = stderr()
        self._status: Any = None
        self._text = ""
        self._limit_s: float | None = None
        self._since = self._last_line = time.monotonic()

    def __enter__(self) -> StepView:
        if self._console.is_terminal:
            self._status = self._console.status("")
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(text, markup=False)

    def step(self, text: str, limit_s: float | None = None) -> None:
        """Show what is done from now on, and how many seconds it may take at most."""
        self._text, self._limit_s, self._since = text, limit_s, time.monotonic()
        self.tick()

    def tick(self) -> None:
        """Update the line; to be called about once a second."""
        now = time.monotonic()
        limit = f" of at most {self._limit_s:g}" if self._limit_s is not None else ""
        line = f"{self._text} ({now - self._since:.0f}{limit} s)"
        if self._status is not None:
            from rich.markup import escape

            self._status.update(escape(line))
        elif now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            self._console.print(line, markup=False)
