"""Copy of hidden rows and their block scales into row space, for configs that do not gather inside GEMM 1."""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64, const_expr

from .sched import is_crowded

THREADS_PER_TOKEN = 128
TOKENS_PER_CTA = 2
BLOCK = 128
VECTOR_BYTES = 16


class Permute:
    """Scatter of FP8 rows: each token's row is read once and written to the rows of all its local experts.

    Shapes:
        x: [T, H] float8_e4m3fn or uint8, row-major, 16-byte aligned. x_scale: [H/128, T] float32.
        token_row: [T, top_k] int32 from :class:`Routing`, -1 where the choice is not local.
        counts: [E], m_indptr: [E + 1] int32 where only experts with more than ``above`` rows are served, of calls in
            which some are crowded (:func:`sched.is_crowded`); else None.
        x_rows: [P, H], same dtype as x, 16-byte aligned. x_rows_scale: [H/128, P] float32 with any strides.

    Filling rows and rows outside the segments are not written: whatever reads them must not let them reach another row.
    A group of 128 threads owns a token, 2 tokens per CTA; tokens without such experts are not read. H is a multiple
    of 128. A warp per token with all 14 pieces of a lane in flight was 0 to 1.5 us slower (H200, 2026-11-29).
    """

    def __init__(
        self,
        hidden: int,
        top_k: int,
        use_pdl: bool = False,
        experts: int = 0,
        above: int = 0,
        crowded: int = 0,
        crowded_total: int = 0,
    ):
        if hidden % BLOCK:
            raise ValueError(f"hidden size {hidden} is not a multiple of {BLOCK}")
        self.hidden = hidden
        self.top_k = top_k
        self.use_pdl = use_pdl
        self.experts = experts
        self.above = above
        self.crowded = crowded
        self.crowded_total = crowded_total

    @cute.jit
    def __call__(self, x, x_scale, token_row, counts, m_indptr, x_rows, x_rows_scale, stream):
        """Launch one kernel."""
        tokens = Int32(cute.size(x, mode=[0]))
        self.kernel(x, x_scale, token_row, counts, m_indptr, x_rows, x_rows_scale, tokens).launch(
            grid=(cutlass.max((tokens + TOKENS_PER_CTA - 1) // TOKENS_PER_CTA, 1), 1, 1),
            block=(THREADS_PER_TOKEN * TOKENS_PER_CTA, 1, 1),
            stream=stream,
            use_pdl=self.use_pdl,
        )

    @cute.kernel
    def kernel(self, x, x_scale, token_row, counts, m_indptr, x_rows, x_rows_scale, tokens: Int32):
        tid, _, _ = cute.arch.thread_idx()
        cta, _, _ = cute.arch.block_idx()
        token = cta * TOKENS_PER_CTA + tid // THREADS_PER_TOKEN
        lane = tid % THREADS_PER_TOKEN
        if const_expr(self.use_pdl):
            cute.arch.griddepcontrol_launch_dependents()
            cute.arch.griddepcontrol_wait()
        if const_expr(self.crowded > 0):
            tokens = tokens if is_crowded(counts, self.experts, self.crowded, self.crowded_total) else Int32(0)
        if token < tokens:
            rows = cute.make_rmem_tensor(self.top_k, Int32)
            last = Int32(-1)
            for k in cutlass.range_constexpr(self.top_k):
                rows[k] = token_row[token, k]
                if const_expr(self.above > 0):
                    rows[k] = rows[k] if self.of_many(rows[k], counts, m_indptr) else -1
                last = cutlass.max(last, rows[k])
            if last >= 0:
                self.copy_values(x, x_rows, rows, token, lane)
                for block in cutlass.range(lane, self.hidden // BLOCK, THREADS_PER_TOKEN, unroll=1):
                    scale = Float32(x_scale[block, token])
                    for k in cutlass.range_constexpr(self.top_k):
                        if rows[k] >= 0:
                            x_rows_scale[block, rows[k]] = scale

    @cute.jit
    def of_many(self, row: Int32, counts, m_indptr) -> cutlass.Boolean:
        """Whether a row, the same in all lanes, belongs to an expert with more than ``above`` rows."""
        served = cutlass.Boolean(False)
        for c in cutlass.range_constexpr((self.experts + 31) // 32):
            expert = cute.arch.lane_idx() + 32 * c
            if expert < self.experts:
                count, first = counts[expert], m_indptr[expert]
                served = served or (count > self.above and first <= row and row < first + count)
        return cute.arch.vote_ballot_sync(served) != 0

    @cute.jit
    def copy_values(self, x, x_rows, rows, token: Int32, lane: Int32):
        """This thread's 16-byte pieces of the token's row; all loads are issued before the first store."""
        vectors = self.hidden // VECTOR_BYTES
        steps = (vectors + THREADS_PER_TOKEN - 1) // THREADS_PER_TOKEN
        layout = cute.make_layout(VECTOR_BYTES)
        r = cute.make_rmem_tensor(cute.make_layout((VECTOR_BYTES, steps)), x.element_type)
        for step in cutlass.range_constexpr(steps):
            piece = step * THREADS_PER_TOKEN + lane
            if piece < vectors:
                source = (x.iterator + (token * self.hidden + piece * VECTOR_BYTES)).align(VECTOR_BYTES)
                cute.autovec_copy(cute.make_tensor(source, layout), r[None, step])
        for k in cutlass.range_constexpr(self.top_k):
            if rows[k] >= 0:
                for step in cutlass.range_constexpr(steps):
                    piece = step * THREADS_PER_TOKEN + lane
                    if piece < vectors:
                        target = (x_rows.iterator + (Int64(rows[k]) * self.hidden + piece * VECTOR_BYTES)).align(
                            VECTOR_BYTES
                        )
                        cute.autovec_copy(r[None, step], cute.make_tensor(target, layout))
