"""The last steps of the pipeline: weighted sum of rows per token, or zero and cast around GEMM 2's atomics."""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Float32, Int32, Int64, Uint32, const_expr

THREADS = 128
VECTOR = 8
"""Columns per thread: one 16-byte access in bfloat16, two in float32."""


WARP = 32
WIDE_TOKENS = 512


class Finalize:
    """``out[t] = bf16(sum over k of w * sum over s of y[s, token_row[t, k]])``, in float32, k ascending: deterministic.

    Shapes:
        y: [P, H] bfloat16 or float32, or [splits, P, H] float32 partial sums of GEMM 2 when ``splits`` > 1; row-major.
        token_row: [T, top_k] int32, -1 where the choice is not local. row_weight: [P] float32; ``w`` is
            ``row_weight[token_row[t, k]]`` when ``weighted``, else 1 (GEMM 2's epilogue has multiplied already; pass
            it anyway).
        out: [T, H] bfloat16, row-major. Tokens without a local expert get zeros.

    A thread owns 8-column pieces of one token. Up to ``WIDE_TOKENS`` tokens it owns one piece, so that the row
    spreads over several CTAs, and the loads of all choices are in flight before the first is used. Above, a CTA owns
    a token and a thread up to 4 pieces, taken together choice after choice: most tokens have one local row, and one
    piece per thread leaves too few bytes in flight. With ``all_local`` (every expert is local, so every token has top_k
    rows) the first form is taken at any size: it was 10 to 25 % faster at 901 tokens (H200, 2026-11-23). Rows of
    choices that are not local are not read. H is a multiple of 8.
    """

    def __init__(
        self,
        hidden: int,
        top_k: int,
        weighted: bool = True,
        splits: int = 1,
        use_pdl: bool = False,
        all_local: bool = False,
    ):
        if hidden % VECTOR:
            raise ValueError(f"hidden size {hidden} is not a multiple of {VECTOR}")
        self.hidden = hidden
        self.top_k = top_k
        self.weighted = weighted
        self.splits = splits
        self.use_pdl = use_pdl
        self.all_local = all_local
        vectors = hidden // VECTOR
        self.pieces = min(4, -(-vectors // WARP))
        self.deep_threads = -(-vectors // (self.pieces * WARP)) * WARP
        if self.deep_threads > 1024:
            raise ValueError(f"hidden size {hidden} is over {1024 * 4 * VECTOR}, the most that one CTA owns")

    @cute.jit
    def __call__(self, y, token_row, row_weight, out, stream):
        """Launch one kernel."""
        tokens = Int32(cute.size(token_row, mode=[0]))
        rows = Int64(cute.size(y, mode=[len(y.shape) - 2]))
        if const_expr(self.all_local):  # noqa: SIM114  (compile time, the next condition is not)
            self.launch_wide(y, token_row, row_weight, out, tokens, rows, stream)
        elif tokens <= WIDE_TOKENS:
            self.launch_wide(y, token_row, row_weight, out, tokens, rows, stream)
        else:
            self.deep(y, token_row, row_weight, out, rows).launch(
                grid=(tokens, 1, 1), block=(self.deep_threads, 1, 1), stream=stream, use_pdl=self.use_pdl
            )

    @cute.jit
    def launch_wide(self, y, token_row, row_weight, out, tokens: Int32, rows: Int64, stream):
        """A thread per piece of 8 columns."""
        columns = (self.hidden // VECTOR + THREADS - 1) // THREADS
        self.wide(y, token_row, row_weight, out, tokens, rows).launch(
            grid=(cutlass.max(tokens, 1), columns, 1), block=(THREADS, 1, 1), stream=stream, use_pdl=self.use_pdl
        )

    @cute.kernel
    def wide(self, y, token_row, row_weight, out, tokens: Int32, rows: Int64):
        tid, _, _ = cute.arch.thread_idx()
        token, part, _ = cute.arch.block_idx()
        column = (part * THREADS + tid) * VECTOR
        if const_expr(self.use_pdl):
            cute.arch.griddepcontrol_launch_dependents()
            cute.arch.griddepcontrol_wait()
        if token < tokens and column < self.hidden:
            r_row = cute.make_rmem_tensor(self.top_k, Int32)
            r_weight = cute.make_rmem_tensor(self.top_k, Float32)
            for k in cutlass.range_constexpr(self.top_k):
                r_row[k] = token_row[token, k]
            for k in cutlass.range_constexpr(self.top_k):
                r_weight[k] = Float32(1.0)
                if const_expr(self.weighted):
                    if r_row[k] >= 0:
                        r_weight[k] = row_weight[r_row[k]]
            r_sum = cute.make_rmem_tensor(VECTOR, Float32)
            r_sum.fill(0.0)
            for split in cutlass.range(self.splits, unroll=1):
                r_bits = cute.make_rmem_tensor(cute.make_layout((piece_words(y), self.top_k)), Int32)
                for k in cutlass.range_constexpr(self.top_k):
                    start = (split * rows + r_row[k]) * self.hidden + column
                    load_if(y.iterator + start, r_row[k], r_bits[None, k])
                for k in cutlass.range_constexpr(self.top_k):
                    add_piece(r_sum, r_bits[None, k], r_weight[k], y.element_type)
            store_bf16(r_sum, out.iterator + (Int64(token) * self.hidden + column))

    @cute.kernel
    def deep(self, y, token_row, row_weight, out, rows: Int64):
        tid, _, _ = cute.arch.thread_idx()
        token, _, _ = cute.arch.block_idx()
        if const_expr(self.use_pdl):
            cute.arch.griddepcontrol_launch_dependents()
            cute.arch.griddepcontrol_wait()
        # Lane k of every warp holds choice k, so that the loop below runs over the local ones only.
        lane = cute.arch.lane_idx()
        my_row = Int32(-1)
        my_weight = Float32(1.0)
        if lane < self.top_k:
            my_row = token_row[token, lane]
            if const_expr(self.weighted):
                if my_row >= 0:
                    my_weight = row_weight[my_row]
        left = Uint32(cute.arch.vote_ballot_sync(my_row >= 0))
        r_sum = cute.make_rmem_tensor(cute.make_layout((VECTOR, self.pieces)), Float32)
        r_sum.fill(0.0)
        r_words = cute.make_rmem_tensor(cute.make_layout((piece_words(y), self.pieces)), Int32)
        while left != 0:
            k = Int32(cute.arch.clz(cute.arch.brev(left)))
            left = left & (left - Uint32(1))
            row = cute.arch.shuffle_sync(my_row, k)
            weight = cute.arch.shuffle_sync(my_weight, k)
            for split in cutlass.range(self.splits, unroll=1):
                start = (split * rows + row) * self.hidden
                for j in cutlass.range_constexpr(self.pieces):
                    column = (j * self.deep_threads + tid) * VECTOR
                    load_if(y.iterator + (start + column), Int32(self.hidden - 1) - column, r_words[None, j])
                for j in cutlass.range_constexpr(self.pieces):
                    add_piece(r_sum[None, j], r_words[None, j], weight, y.element_type)
        for j in cutlass.range_constexpr(self.pieces):
            column = (j * self.deep_threads + tid) * VECTOR
            if column < self.hidden:
                store_bf16(r_sum[None, j], out.iterator + (Int64(token) * self.hidden + column))


class Zero:
    """Zero a row-major [T, H] float32 or bfloat16 tensor (the accumulator of the atomic combine). H is a multiple of
    8."""

    def __init__(self, hidden: int, use_pdl: bool = False):
        self.hidden = hidden
        self.use_pdl = use_pdl

    @cute.jit
    def __call__(self, x, stream):
        """Launch one kernel."""
        vectors = Int32(cute.size(x, mode=[0])) * (self.hidden // VECTOR)
        self.kernel(x, vectors).launch(
            grid=(cutlass.max((vectors + THREADS - 1) // THREADS, 1), 1, 1),
            block=(THREADS, 1, 1),
            stream=stream,
            use_pdl=self.use_pdl,
        )

    @cute.kernel
    def kernel(self, x, vectors: Int32):
        tid, _, _ = cute.arch.thread_idx()
        cta, _, _ = cute.arch.block_idx()
        if const_expr(self.use_pdl):
            cute.arch.griddepcontrol_launch_dependents()
            cute.arch.griddepcontrol_wait()
        vector = cta * THREADS + tid
        if vector < vectors:
            r = cute.make_rmem_tensor(VECTOR, x.element_type)
            r.fill(0.0)
            target = (x.iterator + Int64(vector) * VECTOR).align(16)
            cute.autovec_copy(r, cute.make_tensor(target, cute.make_layout(VECTOR)))


class Cast:
    """``out = bf16(acc)``; acc [T, H] float32, out [T, H] bfloat16, both row-major. H is a multiple of 8."""

    def __init__(self, hidden: int, use_pdl: bool = False):
        self.hidden = hidden
        self.use_pdl = use_pdl

    @cute.jit
    def __call__(self, acc, out, stream):
        """Launch one kernel."""
        vectors = Int32(cute.size(acc, mode=[0])) * (self.hidden // VECTOR)
        self.kernel(acc, out, vectors).launch(
            grid=(cutlass.max((vectors + THREADS - 1) // THREADS, 1), 1, 1),
            block=(THREADS, 1, 1),
            stream=stream,
            use_pdl=self.use_pdl,
        )

    @cute.kernel
    def kernel(self, acc, out, vectors: Int32):
        tid, _, _ = cute.arch.thread_idx()
        cta, _, _ = cute.arch.block_idx()
        if const_expr(self.use_pdl):
            cute.arch.griddepcontrol_launch_dependents()
            cute.arch.griddepcontrol_wait()
        vector = cta * THREADS + tid
        if vector < vectors:
            r = cute.make_rmem_tensor(VECTOR, Float32)
            source = (acc.iterator + Int64(vector) * VECTOR).align(16)
            cute.autovec_copy(cute.make_tensor(source, cute.make_layout(VECTOR)), r)
            store_bf16(r, out.iterator + Int64(vector) * VECTOR)


def piece_words(y) -> int:
    """32-bit words of 8 columns of ``y``."""
    return VECTOR * y.element_type.width // 32


@cute.jit
def add_piece(r_sum: cute.Tensor, r_words: cute.Tensor, weight: Float32, dtype: cutlass.Constexpr):
    """``r_sum += weight * values`` where the words hold 8 values of ``dtype``."""
    r_sum.store(r_sum.load() + cute.recast_tensor(r_words, dtype).load().to(Float32) * weight)


@cute.jit
def store_bf16(r_values: cute.Tensor, pointer: cute.Pointer):
    """8 float32 values, rounded to bfloat16, in one 16-byte store."""
    r = cute.make_rmem_tensor(VECTOR, BFloat16)
    r.store(r_values.load().to(BFloat16))
    cute.autovec_copy(r, cute.make_tensor(pointer.align(16), cute.make_layout(VECTOR)))


@cute.jit
def load_if(pointer: cute.Pointer, row: Int32, r_words: cute.Tensor):
    """16-byte loads into the int32 register tensor if ``row`` >= 0, zeros otherwise. Read-only data.

    Predicated by hand: a branch around each load would keep the loads of later choices from being issued early.
    """
    for j in cutlass.range_constexpr(cute.size(r_words) // 4):
        r_words[4 * j], r_words[4 * j + 1], r_words[4 * j + 2], r_words[4 * j + 3] = cute.arch.inline_ptx(
            "{ .reg .pred local; setp.ge.s32 local, {$r1}, 0;"
            " mov.b32 {$w0}, 0; mov.b32 {$w1}, 0; mov.b32 {$w2}, 0; mov.b32 {$w3}, 0;"
            f" @local ld.global.v4.b32 {{{{$w0}}, {{$w1}}, {{$w2}}, {{$w3}}}}, [{{$r0}} + {16 * j}]; }}",
            write_only_types=[Int32, Int32, Int32, Int32],
            read_only_args=[Int64(pointer.toint()), row],
        )
