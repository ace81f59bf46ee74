"""The expert computation: decode rows and weights, GEMM 1, SwiGLU, GEMM 2, weighted sum; one kernel for each config.

One work item is a run of rows of one expert. A row tile goes through both GEMMs at once, so that the intermediate
values stay in cache. Everything that a config decides is a number captured by the factory function: Numba compiles it
as a constant, drops the branches not taken, and hashes it into the key of its on-disk cache.

The kernel allocates nothing; all buffers are arguments. That and plain loops (no slice assignments, no array
expressions) keep its compilation short.
"""

from numba import njit

from .dots import PLAIN, dot_1x1, dot_1x4, dot_2x2, dot_4x2, dot_4x4, swiglu, unbound
from .fp8 import gather_by_bits, gather_by_table, weights_by_bits, weights_by_table

_VALUES, _CODES, _SCALES = "float32[:, ::1]", "uint8[:, :, ::1]", "float32[:, :, ::1]"
SIGNATURE = (
    f"void(int64[:, ::1], int64[::1], float32[::1], uint8[:, ::1], {_VALUES}, {_CODES}, {_SCALES}, {_CODES}, "
    f"{_SCALES}, float32[::1], {_VALUES}, {_VALUES}, {_VALUES}, {_VALUES}, {_VALUES}, {_VALUES}, {_VALUES})"
)


def make_solve(ROW_TILE, COL_TILE, K_BLOCK, MICRO_ROWS, MICRO_COLS, BITS, DECODE_ONCE, GATHER_FIRST, SCATTER):
    """Compile the kernel of a config.

    Returns:
        ``solve(work, row_token, row_weight, x, x_scale, w1, s1, w2, s2, table, inputs, first, hidden, second,
        decoded1, decoded2, result)``.

    Shapes (T tokens, H hidden, I intermediate, E local experts, R rows of the layout, M = ROW_TILE):
        work int64 [items, 3]: expert, first row, number of rows (a multiple of MICRO_ROWS)
        row_token int64 [R], row_weight float32 [R]
        x uint8 [T, H] (fp8 bits), x_scale float32 [H/128, T]
        w1 uint8 [E, 2I, H], s1 float32 [E, 2I/128, H/128]; w2 uint8 [E, H, I], s2 float32 [E, H/128, I/128]
        table float32 [256]: value of each fp8 code
        inputs float32: [R, H] already decoded (GATHER_FIRST), else [M, H], filled here
        first [M, 2I], hidden [M, I], second [M, H]: intermediate values of a row tile
        decoded1, decoded2 float32: [2I, H] and [H, I] (DECODE_ONCE), else [COL_TILE, K_BLOCK]
        result float32: [T, H] to add to (SCATTER), else [R, H] to write
    """
    SHAPE = MICRO_ROWS * 10 + MICRO_COLS

    def solve(
        work, row_token, row_weight, x, x_scale, w1, s1, w2, s2, table, inputs, first, hidden, second, decoded1,
        decoded2, result,
    ):  # fmt: skip
        H, INNER = w1.shape[2], w2.shape[2]
        for item in range(work.shape[0]):
            e, start, end = work[item, 0], work[item, 1], work[item, 1] + work[item, 2]
            for base in range(start, end, ROW_TILE):
                M = end - base if end - base < ROW_TILE else ROW_TILE
                if not GATHER_FIRST:
                    for r in range(M):
                        if BITS:
                            gather_by_bits(row_token[base + r], x, x_scale, inputs, r)
                        else:
                            gather_by_table(row_token[base + r], x, x_scale, table, inputs, r)
                for stage in range(2):
                    if stage == 0:
                        A, C, W, S, B, K, N = inputs, first, w1, s1, decoded1, H, 2 * INNER
                    else:
                        A, C, W, S, B, K, N = hidden, second, w2, s2, decoded2, INNER, H
                    a_row = base if GATHER_FIRST and stage == 0 else 0
                    for r in range(M):
                        for c in range(N):
                            C[r, c] = 0
                    if DECODE_ONCE and base == start:
                        if BITS:
                            weights_by_bits(W, S, e, 0, N, 0, K, B)
                        else:
                            weights_by_table(W, S, e, 0, N, 0, K, table, B)
                    for n0 in range(0, N, COL_TILE):
                        columns = N - n0 if N - n0 < COL_TILE else COL_TILE
                        for k0 in range(0, K, K_BLOCK):
                            n = K - k0 if K - k0 < K_BLOCK else K_BLOCK
                            b_row, b_k = (n0, k0) if DECODE_ONCE else (0, 0)
                            if not DECODE_ONCE:
                                if BITS:
                                    weights_by_bits(W, S, e, n0, n0 + columns, k0, k0 + n, B)
                                else:
                                    weights_by_table(W, S, e, n0, n0 + columns, k0, k0 + n, table, B)
                            for r in range(0, M, MICRO_ROWS):
                                for c in range(0, columns, MICRO_COLS):
                                    if SHAPE == 11:
                                        dot_1x1(C, r, n0 + c, A, a_row + r, k0, B, b_row + c, b_k, n)
                                    elif SHAPE == 14:
                                        dot_1x4(C, r, n0 + c, A, a_row + r, k0, B, b_row + c, b_k, n)
                                    elif SHAPE == 22:
                                        dot_2x2(C, r, n0 + c, A, a_row + r, k0, B, b_row + c, b_k, n)
                                    elif SHAPE == 42:
                                        dot_4x2(C, r, n0 + c, A, a_row + r, k0, B, b_row + c, b_k, n)
                                    else:
                                        dot_4x4(C, r, n0 + c, A, a_row + r, k0, B, b_row + c, b_k, n)
                    if stage == 0:
                        swiglu(first, M, hidden)
                for r in range(M):
                    token = row_token[base + r]
                    factor = row_weight[base + r]
                    if token >= 0:
                        for c in range(H):
                            if SCATTER:
                                result[token, c] += factor * second[r, c]
                            else:
                                result[base + r, c] = factor * second[r, c]

    return njit(SIGNATURE, cache=True, **PLAIN)(unbound(solve))
