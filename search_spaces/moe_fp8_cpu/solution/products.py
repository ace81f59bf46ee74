"""The expert computation by whole matrix products: each expert's weights are decoded once, the products are BLAS's.

Worth it from a few rows per expert on: a library's product runs at the core's peak, and with bfloat16 operands at twice
that on CPUs that multiply them in hardware. Rows, weights and SwiGLU stay ours, since torch needs a pass over memory
for each step of the decoding.
"""

import numpy as np
from numba import njit

from .dots import FAST, PLAIN, unbound
from .fp8 import bfloat16_bits, value_of


def make_steps(BFLOAT16):
    """Compile the steps around the products; operands are float32, or bfloat16 as uint16 bits.

    Returns:
        Three kernels (H hidden, I intermediate, M rows of one expert):
            ``rows(token, x, x_scale, out)``: decode the rows of ``token`` int64 [M] from x uint8 [T, H] and x_scale
            float32 [H/128, T] into out [M, H].
            ``weights(w, s, e, n0, n1, out)``: decode rows n0..n1 of expert e of w uint8 [E, N, K] and s float32
            [E, N/128, K/128] into out [N, K].
            ``activate(first, weight, hidden)``: silu(second half) * first half of first [M, 2I], times weight float32
            [M], into hidden [M, I].
    """
    OPERAND = "uint16[:, ::1]" if BFLOAT16 else "float32[:, ::1]"

    def rows(token, x, x_scale, out):
        for r in range(token.shape[0]):
            source = token[r]
            for b in range(x_scale.shape[0]):
                scale = x_scale[b, source]
                codes, values = x[source, b * 128 : b * 128 + 128], out[r, b * 128 : b * 128 + 128]
                for k in range(128):
                    values[k] = bfloat16_bits(value_of(codes[k]) * scale) if BFLOAT16 else value_of(codes[k]) * scale

    def weights(w, s, e, n0, n1, out):
        for n in range(n0, n1):
            for b in range(s.shape[2]):
                scale = s[e, n // 128, b]
                codes, values = w[e, n, b * 128 : b * 128 + 128], out[n, b * 128 : b * 128 + 128]
                for k in range(128):
                    values[k] = bfloat16_bits(value_of(codes[k]) * scale) if BFLOAT16 else value_of(codes[k]) * scale

    def activate(first, weight, hidden):
        width = hidden.shape[1]
        for r in range(hidden.shape[0]):
            up, gate, values, factor = first[r, :width], first[r, width:], hidden[r], weight[r]
            for i in range(width):
                g = gate[i]
                value = g / (np.float32(1) + np.exp(-g)) * up[i] * factor
                values[i] = bfloat16_bits(value) if BFLOAT16 else value

    def compiled(signature, function, flags):
        return njit(signature, cache=True, **flags)(unbound(function))

    return (
        compiled(f"void(int64[::1], uint8[:, ::1], float32[:, ::1], {OPERAND})", rows, PLAIN),
        compiled(f"void(uint8[:, :, ::1], float32[:, :, ::1], int64, int64, int64, {OPERAND})", weights, PLAIN),
        compiled(f"void(float32[:, ::1], float32[::1], {OPERAND})", activate, FAST),
    )
