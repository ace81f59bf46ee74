"""docs/results/judge.md and judge.json from what was found."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any


def write(documents: Sequence[dict[str, Any]], out: Path) -> None:
    """The page and the records."""
