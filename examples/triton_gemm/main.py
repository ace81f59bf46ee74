"""C = A @ B.T in Triton. Its choices come from config.py, as constants of the kernel and options of its launch."""

import triton
import triton.language as tl

from .config import select


@triton.jit
def multiply(
    a, b, c, m_size, n_size, K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):  # fmt: skip
    # Programs that run at the same time work on GROUP_M rows of blocks, so that they read the same parts of B.
    program = tl.program_id(0)
    rows, columns = tl.cdiv(m_size, BLOCK_M), tl.cdiv(n_size, BLOCK_N)
    group = program // (GROUP_M * columns)
    first = group * GROUP_M
    height = min(rows - first, GROUP_M)
    block_m = first + program % (GROUP_M * columns) % height
    block_n = program % (GROUP_M * columns) // height

    m = block_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n = block_n * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        left = tl.load(a + m[:, None] * K + (start + k)[None, :], m[:, None] < m_size, 0.0)
        right = tl.load(b + n[None, :] * K + (start + k)[:, None], n[None, :] < n_size, 0.0)
        total = tl.dot(left, right, total)
    inside = (m[:, None] < m_size) & (n[None, :] < n_size)
    tl.store(c + m[:, None] * n_size + n[None, :], total.to(c.dtype.element_ty), inside)


def run(A, B, C):
    (M, K), N = A.shape, B.shape[0]
    config = select(M)
    grid = (triton.cdiv(M, config["block_m"]) * triton.cdiv(N, config["block_n"]),)
    multiply[grid](
        A, B, C, M, N, K, config["block_m"], config["block_n"], config["block_k"], config["group_m"],
        num_warps=config["num_warps"], num_stages=config["num_stages"],
    )  # fmt: skip
