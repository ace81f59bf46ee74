"""How processes of our own are started: with our packages, whatever lies in the folder that the user stands in."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[2])
"""Where our packages are."""


def command(module: str, *arguments: str) -> list[str]:
    """Runs a module in a Python of its own; files of the working folder cannot stand in for modules (``-P``)."""
    return [sys.executable, "-P", "-m", module, *arguments]


def python_path(*folders: str) -> str:
    """``PYTHONPATH`` for such a process: our packages first, then these folders."""
    return os.pathsep.join(dict.fromkeys([ROOT, *(f for f in folders if f)]))


UTF8 = {"PYTHONUTF8": "1"}
"""Files and pipes hold the same bytes under every locale."""
