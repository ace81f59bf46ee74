"""The Typer application, and the exit code of each kind of error."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from typing import Any

import typer

from tuner import errors
from tuner.cli import deliver, log, look, maintain, serve, study, tune
from tuner.cli.output import results
from tuner.interrupts import outlive_forks

USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
"""The parser's own usage error; which package it lives in depends on Typer's version."""

OF_THE_PLACE = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE))
"""What no code of ours can help: a full disk, a file system that cannot be written, rights, limits."""

app = typer.Typer(
    name="tuner",
    help="Finds the fastest correct kernel for a flashinfer-bench definition on given hardware, and hands it out.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("init")(tune.init)
app.command("sweep")(tune.sweep)
app.command("bench")(tune.bench)
app.command("compile")(tune.compile_)
app.command("verify")(tune.verify)
app.command("status")(look.status)
app.command("best")(look.best)
app.command("profile")(look.profile)
app.command("report")(look.report)
app.command("explain")(look.explain)
app.command("export")(deliver.export)
app.command("doctor")(maintain.doctor)
app.command("serve")(serve.serve)
app.add_typer(maintain.db, name="db")
app.add_typer(serve.token, name="token")
app.add_typer(study.study, name="study")


def run(arguments: list[str] | None = None) -> int:
    """Run one command; errors that users can cause end in one line on stderr."""
    given = sys.argv[1:] if arguments is None else arguments
    # SIGTERM, which orchestrators send, means Ctrl-C at any moment; SIGINT does so too where a shell that started this
    # process in the background had it ignored. Servers and sweeps replace this handler.
    _on_stop(signal.default_int_handler, signal.SIGINT, signal.SIGTERM)
    outlive_forks(signal.SIGINT, signal.SIGTERM)
    try:
        return _answer(given)
    except KeyboardInterrupt:  # a second signal, before signals were ignored
        return errors.EXIT_INTERRUPTED


def _answer(given: list[str]) -> int:
    """Run one command to its exit code, with one line where it fails."""
    try:
        log.configure()
        # Not by calling the application: Typer makes a silent exit of Ctrl-C.
        command = typer.main.get_command(app)
        with command.make_context("tuner", given or ["--help"]) as context:
            code = command.invoke(context)
    except typer.Exit as end:
        code = end.exit_code
    except (KeyboardInterrupt, typer.Abort, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != signal.SIGTERM:  # that is Ray's answer while it starts
            raise
        _on_stop(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM)  # further signals change nothing
        how = f"; {stop}" if isinstance(stop, KeyboardInterrupt) and stop.args else ""
        return _fail(f"interrupted{how}", errors.EXIT_INTERRUPTED)
    except BrokenPipeError:  # whoever reads the output has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), results().fileno())
        return errors.EXIT_INTERNAL
    except Exception as error:
        meaning = exit_code(error)
        if meaning is None:
            raise
        return _fail(_one_line(error), meaning)
    return code if isinstance(code, int) else errors.EXIT_OK


def exit_code(error: Exception) -> int | None:
    """The exit code of an error that users can solve, None for an internal one.

    The packages below ``tuner`` have error classes of their own and do not know this one; they are mapped here.
    """
    from db.errors import NoSuchSweep, StoreError
    from search_spaces import SpaceError
    from workers.errors import DatasetError, WorkerError

    if isinstance(error, errors.TunerError):
        return error.exit_code
    if isinstance(error, SpaceError | DatasetError | USAGE_ERROR):
        return errors.EXIT_USAGE
    if isinstance(error, NoSuchSweep):
        return errors.EXIT_NOTHING_FOUND
    if isinstance(error, StoreError | WorkerError) or (isinstance(error, OSError) and error.errno in OF_THE_PLACE):
        return errors.EXIT_ENVIRONMENT
    return None


def _on_stop(handler: Any, *numbers: int) -> None:
    """Set the handler of these signals; does nothing outside the main thread, where that is impossible."""
    if threading.current_thread() is threading.main_thread():
        for number in numbers:
            signal.signal(number, handler)


def _one_line(error: Exception) -> str:
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    given = getattr(error.__cause__, "errors", None)
    if isinstance(error, USAGE_ERROR) and given is not None:  # Typer leaves out what was given
        message += "; given was " + ", ".join(repr(e["input"]) for e in given())
    return " ".join(message.split())


def _fail(message: str, code: int) -> int:
    print(f"tuner: {message}", file=sys.stderr)
    return code
