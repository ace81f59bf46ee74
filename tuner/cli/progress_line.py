"""Shows what a command is doing: one line that is updated on a terminal, otherwise an occasional line."""

from __future__ import annotations

import threading
import time
from typing import Any, Self

from tuner.cli.output import stderr
from tuner.progress import Steps

LINE_EVERY_S = 10.0
"""Seconds between two lines of the same step without a terminal."""


class Step:
    """What is being done since it was made, as text."""

    def __init__(self, text: str, limit_s: float | None) -> None:
        self._text = text
        self._limit = f" of at most {limit_s:g}" if limit_s is not None else ""
        self._since = time.monotonic()

    def line(self) -> str:
        """The text, for how long, and against which limit."""
        return f"{self._text} ({time.monotonic() - self._since:.0f}{self._limit} s)"


class Ticking(Steps):
    """Calls its own :meth:`tick` once a second, by a thread, while it is used as a context manager: what a command does
    may take minutes without coming back to it."""

    def __enter__(self) -> Self:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_ticking, daemon=True, name="progress")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _keep_ticking(self) -> None:
        while not self._ended.wait(1.0):
            self.tick()


class StepView(Ticking):
    """Shows steps on stderr. A context manager; commands use it in one thread."""

    def __init__(self) -> None:
        self._console = stderr()
        self._status: Any = None
        self._step: Step | None = None
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status = self._console.status("")
            self._status.start()
        return super().__enter__()

    def __exit__(self, *given: object) -> None:
        super().__exit__(*given)
        if self._status is not None:
            self._status.stop()

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(text)

    def step(self, text: str, limit_s: float | None = None) -> None:
        """Show what is done from now on, and how many seconds it may take at most."""
        self._step = Step(text, limit_s)
        self.tick()

    def tick(self) -> None:
        """Update the line."""
        if self._step is None:
            return
        now = time.monotonic()
        if self._status is not None:
            from rich.markup import escape

            self._status.update(escape(self._step.line()))
        elif now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            self._console.print(self._step.line())
