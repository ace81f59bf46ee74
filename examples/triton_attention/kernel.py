"""The kernel: one block of queries of one head per program, keys in blocks, the softmax kept running."""

import triton
import triton.language as tl


@triton.jit
def attend(
    q, k, v, o, n, scale, HEADS: tl.constexpr, D: tl.constexpr, LONGEST_FIRST: tl.constexpr, HEADS_FIRST: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """q, k, v, o: [n, HEADS, D]. ``scale`` is that of the exponents to base 2."""
    block, head = tl.program_id(0), tl.program_id(1)
    blocks = tl.num_programs(0)
    if HEADS_FIRST:
        block, head = tl.program_id(1), tl.program_id(0)
        blocks = tl.num_programs(1)
    if LONGEST_FIRST:
        block = blocks - 1 - block
    rows = block * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, D)
    at = rows[:, None] * (HEADS * D) + head * D + d[None, :]
    queries = tl.load(q + at, rows[:, None] < n, 0.0)
    largest = tl.full((BLOCK_M,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    out = tl.zeros((BLOCK_M, D), tl.float32)
    for start in range(0, tl.minimum((block + 1) * BLOCK_M, n), BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        keys = tl.load(k + columns[None, :] * (HEADS * D) + head * D + d[:, None], columns[None, :] < n, 0.0)
        scores = tl.dot(queries, keys) * scale
        scores = tl.where((rows[:, None] >= columns[None, :]) & (columns[None, :] < n), scores, -float("inf"))
        new = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.exp2(scores - new[:, None])
        keep = tl.exp2(largest - new)
        total = total * keep + tl.sum(weights, 1)
        values = tl.load(v + columns[:, None] * (HEADS * D) + head * D + d[None, :], columns[:, None] < n, 0.0)
        out = tl.dot(weights.to(values.dtype), values, out * keep[:, None])
        largest = new
    tl.store(o + at, (out / total[:, None]).to(o.dtype.element_ty), rows[:, None] < n)
