"""Names that become the names of files and folders."""

from __future__ import annotations

LONGEST_BYTES = 120
"""Of a name. File systems allow 255 bytes; what is made of a name has more parts than that name."""


def why_unfit(name: str) -> str | None:
    """Why a name cannot be a part of a file's name, None if it can."""
    if not name.isprintable():
        return "has characters that cannot be printed"
    if "/" in name or "\\" in name or name.strip() in ("", ".", ".."):
        return "leads out of its folder"
    size = len(name.encode("utf-8", "surrogatepass"))
    return f"has {size} bytes; at most {LONGEST_BYTES} are allowed" if size > LONGEST_BYTES else None
