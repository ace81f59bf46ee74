"""The tensors of a grouped GEMM in global memory, without its weights."""

from __future__ import annotations

from typing import Any, NamedTuple


class Operands(NamedTuple):
    """Tensors of one launch, handed through the kernel to the code that reads or writes them.

    Attributes:
        x: FP8 token rows, [T, K] gathered through ``row_token``, or [P, K] in row space.
        xs: Their scales, float32 [K/128, T or P].
        ws: The weights' scales, float32 [E, N/128, K/128].
        row_token: Token of each row, int32 [P]; negative for rows that only fill a tile.
        counts: Rows of each expert, int32 [E].
        m_indptr: First row of each expert, int32 [E + 1].
        out: What the epilogue writes.
        out_scale: Scales of FP8 rows, float32 [N/256, P]; None where ``out`` has none.
        row_weight: Routing weights, float32 [P]; None where the epilogue has no use for them.
        zeroed: A bfloat16 tensor [T, H] that an idle warp fills with zeros meanwhile, or None.
        source: FP8 token rows [T, K] that the launch copies to ``x`` itself, or None.
        source_scale: Their scales, float32 [K/128, T], copied to ``xs``.
        ready: int32 counters of that copy (row_copy.py).
        queue: int32 counters by which GEMM 1 feeds GEMM 2 (feed.py), or None.
    """

    x: Any
    xs: Any
    ws: Any
    row_token: Any
    counts: Any
    m_indptr: Any
    out: Any
    out_scale: Any
    row_weight: Any
    zeroed: Any
    source: Any = None
    source_scale: Any = None
    ready: Any = None
    queue: Any = None
