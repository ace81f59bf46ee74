"""C = A @ B.T in torch. The config decides how; config.py is written by the tuner."""

import torch

from .config import select


def multiply(a, b, call, transpose):
    """a [m, K] @ b [n, K].T, in the type of the operands."""
    if call == "linear":
        return torch.nn.functional.linear(a, b)
    b_t = b.t().contiguous() if transpose == "copy" else b.t()
    if call == "einsum":
        return torch.einsum("mk,kn->mn", a, b_t)
    if call == "addmm":
        return torch.addmm(a.new_zeros(1), a, b_t)
    return torch.matmul(a, b_t)


def run(A, B, C):
    """Fill ``C`` [M, N] float16 from ``A`` [M, K] and ``B`` [N, K] float16."""
    (M, _), N = A.shape, B.shape[0]
    config = select(M)
    dtype = getattr(torch, config["dtype"])
    rows, columns = config["rows"] or max(M, 1), config["columns"] or N
    for n in range(0, N, columns):
        b = B[n : n + columns].to(dtype)
        for m in range(0, M, rows):
            a = A[m : m + rows].to(dtype)
            C[m : m + rows, n : n + columns] = multiply(a, b, config["call"], config["transpose"])
