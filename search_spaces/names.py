"""Checks names that become parts of file names."""

from __future__ import annotations

LONGEST_BYTES = 120
"""Longest name in bytes. File systems allow 255, and file names have further parts."""


def why_unfit(name: str) -> str | None:
    """Why a name cannot be part of a file name, None if it can."""
    if not name.isprintable():
        return "has characters that cannot be printed"
    if "/" in name or "\\" in name or name.strip() in ("", ".", ".."):
        return "leads out of its folder"
    size = len(name.encode("utf-8", "surrogatepass"))
    return f"has {size} bytes; at most {LONGEST_BYTES} are allowed" if size > LONGEST_BYTES else None
