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


class StepView(Steps):
    """Shows steps on stderr. A context manager; commands use it in one thread.

    While it is used, :meth:`tick` is called once a second by a thread: what a command does may take minutes without
    coming back to it.
    """

    def __init__(self) -> None:
        self._console = stderr()
        self._display: Any = None
        """What is drawn on a terminal; None without one."""
        self._step: Step | None = None
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._display = self._made_display()
            self._display.start()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_ticking, daemon=True, name="progress")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._display is not None:
            self._display.stop()

    def _keep_ticking(self) -> None:
        while not self._ended.wait(1.0):
            self.tick()

    def _made_display(self) -> Any:
        return self._console.status("")

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
        if self._display is not None:
            from rich.markup import escape

            self._display.update(escape(self._step.line()))
        elif time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._last_line = time.monotonic()
            self._console.print(self._step.line())
