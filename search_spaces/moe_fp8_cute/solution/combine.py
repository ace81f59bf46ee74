"""The last steps of the pipeline: weighted sum of rows per token, or zero and cast around GEMM 2's atomics."""

from __future__ import annotations

import cutlass.cute as cute


class Finalize:
    """``out[t] = bf16(sum over k of w * sum over s of y[s, token_row[t, k]])``, in float32, k ascending: deterministic.

    Shapes:
        y: [P, H] bfloat16 or float32 (``splits == 1``) or [splits, P, H] float32 partial sums of GEMM 2.
        token_row: [T, top_k] int32, -1 where the choice is not local. row_weight: [P] float32; ``w`` is
            ``row_weight[token_row[t, k]]`` when ``weighted``, else 1 (GEMM 2's epilogue has multiplied already; pass it anyway).
        out: [T, H] bfloat16. Tokens without a local expert get zeros.
    """

    def __init__(self, hidden: int, top_k: int, weighted: bool = True, splits: int = 1, use_pdl: bool = False):
        raise NotImplementedError

    @cute.jit
    def __call__(self, y, token_row, row_weight, out, stream):
        """Launch one kernel."""
        raise NotImplementedError


class Zero:
    """Zero a row-major [T, H] float32 or bfloat16 tensor (the accumulator of the atomic combine)."""

    def __init__(self, hidden: int, use_pdl: bool = False):
        raise NotImplementedError

    @cute.jit
    def __call__(self, x, stream):
        """Launch one kernel."""
        raise NotImplementedError


class Cast:
    """``out = bf16(acc)``; acc [T, H] float32, out [T, H] bfloat16, both row-major."""

    def __init__(self, hidden: int, use_pdl: bool = False):
        raise NotImplementedError

    @cute.jit
    def __call__(self, acc, out, stream):
        """Launch one kernel."""
        raise NotImplementedError
