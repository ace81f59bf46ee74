"""The sweep process under attack: the product's own command, with a host's workers instead of a Ray cluster."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# Everything a sweep imports, so that a process forked from here starts at once.
import alembic.command  # noqa: F401
import psycopg  # noqa: F401
import scipy.special  # noqa: F401

import tuner.cli.tune
import tuner.search.samplers._auto
import tuner.search.samplers._random  # noqa: F401
from tests.chaos.host import HostRunner
from tuner.cli import app
from tuner.commands import sweep as session
from tuner.sweeps import setup
from workers.runner import Runner


@dataclass(frozen=True)
class Order:
    """What one process is to do.

    Args:
        arguments: For ``tuner``.
        database: URL.
        host: Address of the workers.
        out: File for what it prints.
        clock: File with the seconds by which this process's wall clock is off, read again and again.
    """

    arguments: tuple[str, ...]
    database: str
    host: str
    out: Path
    clock: Path


def main(order: Order) -> None:
    """Run the command and end with its exit code."""
    out = os.open(order.out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.close(out)
    os.setsid()
    os.environ["TUNER_DB_URL"] = order.database
    _set_clock(order.clock)

    @contextmanager
    def open_runner(*_: Any) -> Iterator[Runner]:
        runner = HostRunner(order.host)
        try:
            yield runner
        finally:
            runner.close()

    session.open_runner = open_runner  # type: ignore[assignment]
    # Samples as they come: flushing caches and warming up would be nine tenths of a run, and nobody reads the figures.
    usual = setup.Setup.method.fget
    assert usual is not None
    setup.Setup.method = property(lambda s: replace(usual(s), cold_cache=False, warmup_s=0.0))  # type: ignore
    code = 1
    try:
        code = app.run(list(order.arguments))
        for number in (signal.SIGINT, signal.SIGTERM):  # the command has ended: nothing is left to stop
            signal.signal(number, signal.SIG_IGN)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _set_clock(path: Path) -> None:
    """All wall-clock reads of this process go through ``time.time``; heartbeats and records are made of it."""
    real = time.time

    def shifted() -> float:
        try:
            return real() + float(path.read_text())
        except (OSError, ValueError):
            return real()

    time.time = shifted
