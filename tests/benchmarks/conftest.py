"""What tests of several benchmarks share."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def of_h200_moe() -> Callable[[str], ModuleType]:
    """Imports a script of benchmarks/h200_moe; they import each other by their bare names."""

    def script(name: str) -> ModuleType:
        sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "h200_moe"))
        try:
            return importlib.import_module(name)
        finally:
            sys.path.pop(0)

    return script
