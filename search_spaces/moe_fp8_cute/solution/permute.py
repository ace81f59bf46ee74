"""Copy of hidden rows and their block scales into row space, for configs that do not gather inside GEMM 1."""

from __future__ import annotations

import cutlass.cute as cute


class Permute:
    """Gather of FP8 rows.

    Shapes:
        x: [T, H] float8_e4m3fn (or uint8), row-major. x_scale: [H/128, T] float32.
        row_token: [P] int32, -1 in filling rows. m_indptr: [E_local + 1] int32. counts: [E_local] int32.
        x_rows: [P, H], same dtype. x_rows_scale: [H/128, P] float32 (row contiguous; the stride between blocks is the tensor's own).

    Filling rows get zero values and zero scales. Rows outside the filled segments are not written.
    """

    def __init__(self, hidden: int, num_local_experts: int, row_align: int, batched: bool, num_ctas: int, use_pdl: bool):
        raise NotImplementedError

    @cute.jit
    def __call__(self, x, x_scale, row_token, counts, m_indptr, x_rows, x_rows_scale, stream):
        """Launch one kernel."""
        raise NotImplementedError
