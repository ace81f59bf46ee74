"""Files that users name: read or written as a whole, and one line where that is not possible."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tuner.errors import UnusableEnvironmentError, UsageError

OUT_DEFAULT = Path("tuner-out")
"""The folder that ``tuner sweep`` writes the Solution into."""


def read_text(path: Path, what: str) -> str:
    """The text in a file, in UTF-8 or as :func:`json.detect_encoding` finds.

    Args:
        path: The file.
        what: What it should be, for the message, such as ``Solution file``.

    Raises:
        UsageError: It cannot be read, or is no text.
    """
    try:
        content = path.read_bytes()
        return content.decode(json.detect_encoding(content)).removeprefix("\ufeff")
    except (OSError, UnicodeDecodeError) as error:
        why = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else "is not UTF-8 text"
        raise UsageError(f"{what} {path} {why}".strip()) from None


def read_object(path: Path, what: str) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UsageError: As for :func:`read_text` and :func:`as_object`.
    """
    return as_object(read_text(path, what), f"{what} {path}")


def as_object(text: str, what: str) -> dict[str, Any]:
    """The JSON object in a text.

    Raises:
        UsageError: It is not JSON, or something else than an object.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{what} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise UsageError(f"{what} must be a JSON object, not {type(document).__name__}")
    return document


@contextmanager
def replacing(path: Path, what: str) -> Iterator[Path]:
    """Gives a file to write beside ``path``, which takes its place at the end: nobody sees half of it, and of what
    fails nothing is left.

    Args:
        path: The file; its folder is made if it is missing.
        what: The subject of the message, such as ``the report``.

    Raises:
        UnusableEnvironmentError: It cannot be written.
    """
    scratch = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield scratch
        os.replace(scratch, path)
    except OSError as error:
        raise UnusableEnvironmentError(f"{what} cannot be written to {path}: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            scratch.unlink()
