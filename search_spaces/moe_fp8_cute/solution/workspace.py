"""The workspace: one buffer of bytes, cut into sections that depend on the config, the tokens and the row capacity.

The same function gives plain integers to the caller that allocates and run-time values to the host function that cuts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .plans import blocks, plans

ALIGN = 1024
"""Sections start at multiples of this."""
ROUTING_CTAS = 128
"""CTAs whose counts the routing kernel exchanges through its scratch (routing.GRID_CTAS)."""
MAX_TOKENS = ROUTING_CTAS * 256
"""Tokens that the routing kernel's CTAs have room for (Routing.max_tokens)."""
ALWAYS = ("barrier", "scratch", "counts", "m_indptr", "token_row", "row_token", "row_weight", "act", "act_scale")
"""Sections that every config has."""
OPTIONAL = ("partial", "x_rows", "x_scale", "ready", "y", "acc", "queue")
SMALLEST_ROWS = 8
"""Token rows of the smallest tile of all."""
SMALLEST_TILE = 64
"""Token rows of the smallest tile whose rows a GEMM copies for itself: tokens are the M side."""


def ready_ints(rows):
    """Counters of GEMM 1's own copy of token rows (row_copy.py), a plain integer or a run-time one: the next row, then
    the copied rows of every tile; a tile has at least ``SMALLEST_TILE`` rows."""
    return rows // SMALLEST_TILE + 2


def queue_ints(rows):
    """Counters by which GEMM 1 feeds GEMM 2 (feed.FINISHED and before)."""
    return 64 + rows // SMALLEST_ROWS + 1


def optional_sections(config: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, int]:
    """Sections that not every config has a use for; of ``partial`` how many parts of K there are, else 1."""
    first, _ = plans(config, sizes)
    found = {"partial": first.split_k} if first.out == "partial" else {}
    if config["gather"] in ("kernel", "many", "beside"):
        found |= {"x_rows": 1, "x_scale": 1}
    if config["gather"] == "beside":
        found["ready"] = 1
    if first.by_tiles:
        found["queue"] = 1
    if config["combine"] == "finalize":
        found["y"] = 1
    if config["combine"] == "atomic_f32":
        found["acc"] = 1
    return found


def sections(config: Mapping[str, Any], sizes: Mapping[str, Any], tokens, rows) -> dict[str, Any]:
    """Offset of each section of a config in bytes, and the ``total``."""
    return cut(optional_sections(config, sizes), sizes, tokens, rows)


def cut(optional: Mapping[str, int], sizes: Mapping[str, Any], tokens, rows) -> dict[str, Any]:
    """Offset of each section in bytes, and the ``total``, with the optional ones that are named.

    Sections: ``barrier`` (must start as zeros), ``scratch``, ``counts``, ``m_indptr``, ``token_row`` [T, top_k],
    ``row_token`` [P], ``row_weight`` [P], ``act`` [P, I] FP8, ``act_scale`` [I/128, P], and of the others those of
    :func:`optional_sections`: ``partial`` [S, P, 2 I] float32, ``x_rows`` [P, H] FP8, ``x_scale`` [H/128, P], ``ready``
    (counters of :func:`ready_ints`), ``queue`` (those of :func:`queue_ints`), ``y`` [P, H] bfloat16, ``acc`` [T, H]
    float32.
    """
    experts, hidden, intermediate = sizes["local_experts"], sizes["hidden"], sizes["intermediate"]
    wanted = [
        ("barrier", 4),
        ("scratch", 4 * experts * ROUTING_CTAS),
        ("counts", 4 * experts),
        ("m_indptr", 4 * (experts + 1)),
        ("token_row", tokens * (4 * sizes["top_k"])),
        ("row_token", rows * 4),
        ("row_weight", rows * 4),
        ("act", rows * intermediate),
        ("act_scale", rows * (4 * blocks(intermediate))),
        ("partial", rows * (8 * intermediate * optional.get("partial", 1))),
        ("x_rows", rows * hidden),
        ("x_scale", rows * (4 * blocks(hidden))),
        ("ready", 4 * ready_ints(rows)),
        ("queue", 4 * queue_ints(rows)),
        ("y", rows * (2 * hidden)),
        ("acc", tokens * (4 * hidden)),
    ]
    offsets: dict[str, Any] = {}
    at: Any = 0
    for name, size in wanted:
        if name in optional or name in ALWAYS:
            offsets[name] = at
            at = at + (size + (ALIGN - 1)) // ALIGN * ALIGN
    offsets["total"] = at
    return offsets
