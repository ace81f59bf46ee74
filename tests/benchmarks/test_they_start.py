"""What is renamed in the product is renamed in benchmarks, too, that only a GPU runs once in a while."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
APART = ("benchmarks/h200_moe/", "benchmarks/baselines/solutions/")
"""Scripts that are copied to another machine and import each other by their own names."""
FILES = [f.relative_to(ROOT).as_posix() for f in sorted((ROOT / "benchmarks").rglob("*.py"))]


@pytest.mark.parametrize("file", [f for f in FILES if not f.startswith(APART)])
def test_what_a_benchmark_imports_is_there(file):
    """``python -m benchmarks.gpu_sweep`` did not start, since a class of the product had got another name."""
    importlib.import_module(file.removesuffix(".py").replace("/", "."))
