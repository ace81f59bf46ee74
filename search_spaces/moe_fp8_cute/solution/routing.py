"""Routing of tokens to local experts: selection, counts, row offsets and the row map, in one kernel launch.

The row space. Every (token, local expert) pair gets a row. Rows of one expert are consecutive and ascend by token index;
the order is the same in every run. Expert ``e`` owns rows ``m_indptr[e] .. m_indptr[e] + counts[e]``, and its segment is
filled up to a multiple of ``row_align`` with marked rows:

* ``row_token[r]`` is the token index, or -1 in a filling row (gather with ``max(row_token, 0)`` or skip);
* ``row_weight[r]`` is the routing weight, 0 in a filling row;
* rows behind an expert's filled segment are never written.

``flat``: ``m_indptr[e+1] - m_indptr[e]`` is ``counts[e]`` rounded up to ``row_align``. ``batched``: ``m_indptr[e] = e * max_m``
with ``max_m`` a multiple of ``row_align`` and at least the number of tokens.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute


class Routing:
    """Expert selection and row map.

    Shapes:
        logits: [T, E] float32 or bfloat16, row-major, 16-byte aligned.
        bias: [E] bfloat16 for ``deepseek``, None for ``renorm``.
        counts: [E_local] int32. m_indptr: [E_local + 1] int32.
        row_token: [P] int32. row_weight: [P] float32. P >= :meth:`row_capacity` (flat) or E_local * max_m (batched).
        token_row: [T, top_k] int32: row of the k-th choice (descending score), -1 if that expert is not local.
        scratch: [:attr:`scratch_ints`] int32, 16-byte aligned, may hold anything.
        barrier: [1] int32, ZEROED ONCE when the workspace is allocated; every run leaves it fit for the next one.

    All outputs may be poisoned beforehand. T may be 0 (counts and m_indptr are still written) up to :attr:`max_tokens`.
    """

    def __init__(
        self,
        num_experts: int,
        num_local_experts: int,
        top_k: int,
        method: str = "deepseek",
        n_group: int = 1,
        topk_group: int = 1,
        row_align: int = 1,
        batched: bool = False,
        use_pdl: bool = False,
    ):
        raise NotImplementedError

    scratch_ints: int
    max_tokens: int

    def row_capacity(self, tokens: int) -> int:
        """Rows that any routing of ``tokens`` can need in the flat layout, filling rows included."""
        raise NotImplementedError

    @cute.jit
    def __call__(
        self,
        logits: cute.Tensor,
        bias: cute.Tensor | None,
        offset: cutlass.Int32,
        scaling: cutlass.Float32,
        max_m: cutlass.Int32,
        counts: cute.Tensor,
        m_indptr: cute.Tensor,
        row_token: cute.Tensor,
        row_weight: cute.Tensor,
        token_row: cute.Tensor,
        scratch: cute.Tensor,
        barrier: cute.Tensor,
        stream,
    ):
        """Launch one kernel. ``offset`` is the first local expert; ``scaling`` multiplies ``deepseek`` weights; ``max_m`` is
        read in the batched layout only."""
        raise NotImplementedError
