"""Errors for users. Each message is one line: what happened, with which value, what is allowed."""

from __future__ import annotations

EXIT_OK = 0
EXIT_INTERNAL = 1
EXIT_USAGE = 2
EXIT_NOTHING_FOUND = 3
EXIT_ENVIRONMENT = 4
EXIT_INTERRUPTED = 130


class TunerError(Exception):
    """Root of the errors that end a command. ``exit_code`` is what the command line returns."""

    exit_code = EXIT_INTERNAL


class UsageError(TunerError):
    """A flag, a config file, a definition, a space or a dataset is not usable as given."""

    exit_code = EXIT_USAGE


class NothingFoundError(TunerError):
    """The command ran, but there is no valid config or no record to answer with."""

    exit_code = EXIT_NOTHING_FOUND


class UnusableEnvironmentError(TunerError):
    """No such GPU here, or the database or the Ray cluster cannot be reached."""

    exit_code = EXIT_ENVIRONMENT
