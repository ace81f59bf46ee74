"""Puts the repository's root on the module path, so that scripts of this folder can use the product's packages."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
if any(importlib.util.find_spec(package) is None for package in ("workers", "search_spaces")):
    raise SystemExit(f"{ROOT} has no workers/ and search_spaces/ beside benchmarks/: bring the whole repository")
