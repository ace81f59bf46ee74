"""The two kernels. What they are tuned by comes as constants of a kernel and options of a launch."""

import triton
import triton.language as tl


@triton.jit
def gate_up(
    x, weight, out, rows, HIDDEN: tl.constexpr, INNER: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out [rows, INNER] = silu(x @ gate.T) * (x @ up.T), with gate and up one below the other in ``weight``."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    gate = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    up = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, HIDDEN, BLOCK_K):
        left = tl.load(x + m[:, None] * HIDDEN + (start + k)[None, :], m[:, None] < rows, 0.0)
        at = weight + n[None, :] * HIDDEN + (start + k)[:, None]
        gate = tl.dot(left, tl.load(at), gate)
        up = tl.dot(left, tl.load(at + INNER * HIDDEN), up)
    result = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + m[:, None] * INNER + n[None, :], result.to(out.dtype.element_ty), m[:, None] < rows)


@triton.jit
def down(
    x, weight, out, rows, INNER: tl.constexpr, HIDDEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out [rows, HIDDEN] = x @ weight.T."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, INNER, BLOCK_K):
        left = tl.load(x + m[:, None] * INNER + (start + k)[None, :], m[:, None] < rows, 0.0)
        right = tl.load(weight + n[None, :] * INNER + (start + k)[:, None])
        total = tl.dot(left, right, total)
    tl.store(out + m[:, None] * HIDDEN + n[None, :], total.to(out.dtype.element_ty), m[:, None] < rows)
