"""The config as a C header, for Solutions in C++ and CUDA that cannot read ``config.py``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

HEADER_FILE = "config.h"
HEADER_LANGUAGES = ("cpp", "cuda")
"""Languages whose Solutions get a header beside ``config.py``."""


def render_header(sizes: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """One macro for each parameter and size.

    A parameter ``tile`` becomes ``CONFIG_TILE``, an axis ``hidden_size`` becomes ``SIZE_HIDDEN_SIZE``. Booleans are 0
    or 1. A string is a string literal, and ``CONFIG_<PARAMETER>_IS_<VALUE>`` is defined as 1 for ``#ifdef``.
    """
    lines = ["// The choices this Solution was built with. Generated.", "#pragma once", ""]
    for prefix, values in (("SIZE", sizes), ("CONFIG", config)):
        for name, value in values.items():
            macro = f"{prefix}_{macro_name(name)}"
            lines.append(f"#define {macro} {_literal(value)}")
            if isinstance(value, str):
                lines.append(f"#define {macro}_IS_{macro_name(value)} 1")
    return "\n".join(lines) + "\n"


def macro_name(text: str) -> str:
    """The text in capitals, with an underscore for every character that is not allowed in a macro name."""
    return re.sub(r"[^A-Z0-9_]", "_", text.upper())


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return json.dumps(value) if isinstance(value, str) else repr(value)
