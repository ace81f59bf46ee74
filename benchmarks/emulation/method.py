"""What an emulated verdict was made by: digests of emulator and checks, the commit of kernels and emulator."""

from __future__ import annotations

import ast
import hashlib
import subprocess
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
JUDGED_BY = (
    "workers/emulator",
    "search_spaces/emulated_case.py",
    "search_spaces/moe_fp8_cute/routings.py",
    "search_spaces/moe_fp8_cute/stages.py",
)
"""What a verdict depends on besides the variant."""


def digest(texts: Iterable[tuple[str, bytes]]) -> str:
    """16 hex digits of named contents; the order does not matter."""
    whole = hashlib.sha256()
    for name, content in sorted(texts):
        whole.update(f"\0{name}\0{len(content)}\0".encode() + content)
    return whole.hexdigest()[:16]


def method() -> str:
    """Digest of the code of the emulator and of what it checks: two verdicts are of one kind only if it is the same."""
    paths = [p for name in JUDGED_BY for p in [ROOT / name, *(ROOT / name).rglob("*")] if p.suffix in (".py", ".c")]
    return digest((str(p.relative_to(ROOT)), code_of(p)) for p in paths)


def code_of(path: Path) -> bytes:
    """What a file does: of Python its syntax tree without docstrings, so that comments may change."""
    if path.suffix != ".py":
        return path.read_bytes()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [s for s in body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]  # type: ignore[attr-defined]
    return ast.dump(tree).encode()


def commit() -> str:
    """The last commit that touched kernels or emulator; with a plus sign where files differ from it."""
    paths = ["search_spaces", "workers/emulator"]

    def git(*words: str) -> str:
        return subprocess.run(["git", *words, "--", *paths], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    return git("log", "-1", "--format=%h") + ("+" if git("status", "--porcelain") else "")
