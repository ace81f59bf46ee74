"""How processes of our own are started: with our packages, whatever lies in the folder that the user stands in."""

from __future__ import annotations

import getpass
import os
import sys
import tempfile
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[2])
"""Where our packages are."""


def command(module: str, *arguments: str) -> list[str]:
    """Runs a module in a Python of its own; files of the working folder cannot stand in for modules (``-P``)."""
    return [sys.executable, "-P", "-m", module, *arguments]


def python_path(*folders: str) -> str:
    """``PYTHONPATH`` for such a process: our packages first, then these folders."""
    return os.pathsep.join(dict.fromkeys([ROOT, *(f for f in folders if f)]))


def variables() -> dict[str, str]:
    """Variables that such a process needs anywhere.

    UTF-8 mode, so that files and pipes hold the same bytes under every locale; and, for users without an account or a
    home that can be written, a home and a name: libraries ask for both as they are imported.
    """
    found = {"PYTHONUTF8": "1"}
    if not os.access(os.environ.get("HOME", ""), os.W_OK):
        found["HOME"] = tempfile.gettempdir()
    try:
        getpass.getuser()
    except (KeyError, OSError):
        found["USER"] = f"uid{os.getuid()}"
    return found
