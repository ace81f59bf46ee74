"""Logging of commands on stderr: remarks of our packages, and what libraries log."""

from __future__ import annotations

import logging

from tuner.settings import log_level

_OURS = ("tuner", "workers", "search_spaces", "db")


class Notes(logging.Handler):
    """Prints our packages' warnings as plain remarks, everything else with level and name.

    Uses the console of the live display, so that lines appear above it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record; a remark once."""
        from tuner.cli.output import stderr

        remark = record.levelno == logging.WARNING and record.name.partition(".")[0] in _OURS
        if remark and record.getMessage() in self._said:
            return
        self._said.add(record.getMessage())
        head = "note" if remark else f"{record.levelname}:{record.name}"
        try:
            stderr().print(f"{head}: {self.format(record)}")
        except Exception:
            self.handleError(record)


def configure() -> None:
    """Set up logging of a command.

    Raises:
        UsageError: ``TUNER_LOG_LEVEL`` does not name a level.
    """
    logging.basicConfig(level=log_level("WARNING"), handlers=[Notes()], format="%(message)s")
