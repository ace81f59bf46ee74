"""The one reader of JSON files that users name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tuner.errors import UsageError


def read_object(path: Path, what: str) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path: The file.
        what: What it should be, for the message, such as ``Solution file``.

    Raises:
        UsageError: It cannot be read, is not JSON, or holds something else than an object.
    """
    try:
        content = path.read_bytes()
        return as_object(content.decode(json.detect_encoding(content)), f"{what} {path}")
    except (OSError, UnicodeDecodeError) as error:
        why = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else "is not UTF-8 text"
        raise UsageError(f"{what} {path} {why}") from None


def as_object(text: str, what: str) -> dict[str, Any]:
    """The JSON object in a text.

    Raises:
        UsageError: It is not JSON, or something else than an object.
    """
    try:
        document = json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{what} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise UsageError(f"{what} must be a JSON object, not {type(document).__name__}")
    return document
