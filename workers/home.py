"""Folders of this user, for whoever has no home: a container's user without an account, or with a read-only one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from workers.errors import NoPlaceError


def user_folder(find: Callable[[str], str], what: str, variable: str, example: str) -> Path:
    """A folder of this user.

    Args:
        find: One of platformdirs' functions.
        what: What is kept there, for the message.
        variable: What to set instead.
        example: A value of it.

    Raises:
        NoPlaceError: This user has no home folder.
    """
    try:
        folder = Path(find("tuner"))
    except (RuntimeError, KeyError, OSError):
        folder = Path()
    if not folder.is_absolute():
        raise NoPlaceError(f"this user has no home folder, so {what} has no place; set {variable}, such as {example}")
    return folder


def make_folder(folder: Path, what: str, variable: str) -> None:
    """Make a folder, and see that it can be written.

    Raises:
        NoPlaceError: It cannot; the message names the variable that moves it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(0, "it cannot be written")
    except OSError as error:
        raise NoPlaceError(
            f"{what} {folder} is not usable: {error.strerror}; set {variable} to a place that can be written"
        ) from None
