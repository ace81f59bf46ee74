"""The output of commands: results on stdout, everything else on stderr; with ``--json`` one document."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA_VERSION = 1


@cache
def results() -> TextIO:
    """The real stdout, for results.

    The first call redirects this process's stdout to stderr for everything else, native code included: Ray and
    compilers print freely, and a script that reads our stdout must get the results alone.
    """
    sys.stdout.flush()
    own = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return own


WIDE = 1000
"""Columns of a pipe or a file: soft wrapping is for text, and a table would still be cut to fit a terminal."""


@cache
def stdout() -> Console:
    """Console for results. Paths and messages may have ``[words]``, which are no markup."""
    from rich.console import Console

    piped = not results().isatty()
    return Console(file=results(), highlight=False, markup=False, soft_wrap=piped, width=WIDE if piped else None)


@cache
def stderr() -> Console:
    """Console for progress and remarks."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, soft_wrap=not sys.stderr.isatty())


def print_json(document: Mapping[str, Any]) -> None:
    """One JSON document with its ``schema_version``. Keys carry units; fields are added, never renamed."""
    json.dump({"schema_version": SCHEMA_VERSION, **document}, results(), indent=2, default=str)
    results().write("\n")
    results().flush()
