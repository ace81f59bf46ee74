"""Comments and docstrings of the product: none is empty, and words that were replaced do not come back."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = [
    path.relative_to(ROOT).as_posix()
    for package in ("tuner", "workers", "db", "search_spaces")
    for path in sorted((ROOT / package).rglob("*.py"))
]
REPLACED = {
    r"zygote": "fork server",
    r"template process": "fork server",
    r"embedded default": "the cpu target",
}
"""Pattern -> the word of docs/vocabulary.md."""
SOURCES_OF_IDEAS = re.compile(r"Android's zygote")
"""Where somebody else's thing is named."""


@pytest.mark.parametrize("package", ["tuner", "workers", "db", "search_spaces"])
def test_docstrings_say_something(package: str):
    """Two words repeat the name: "It.", "Its end.", "Passed on."."""
    empty = []
    for name in MODULES:
        if not name.startswith(f"{package}/"):
            continue
        for node in ast.walk(ast.parse((ROOT / name).read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text is not None and len(text.split()) < 3:
                    empty.append(f"{name}: {getattr(node, 'name', 'module')}: {text!r}")
    assert not empty


def test_replaced_words_stay_replaced():
    found = []
    for name in MODULES:
        text = SOURCES_OF_IDEAS.sub("", (ROOT / name).read_text())
        found += [f"{name}: {p}; say {word}" for p, word in REPLACED.items() if re.search(p, text, re.I)]
    assert not found
