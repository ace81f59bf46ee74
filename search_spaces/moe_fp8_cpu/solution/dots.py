"""Innermost loops: products of a few rows with a few columns, and SwiGLU.

Each product reads rows of ``A`` and rows of ``B`` (the weights keep K last, as stored) over ``n`` values of K and adds
to a corner of ``C``. The rows are taken as one-dimensional views first: indexed in two dimensions inside the loop, LLVM
keeps the index checks and does not vectorise it (measured: 12 instead of 52 GFLOP/s for 2x2 on an AVX2 core).

Only the product that a config names is compiled; the sum over K may be reordered (vector lanes), which float32 allows
here and the tolerance of the definition covers.
"""

import numpy as np
from numba import njit

PLAIN = {"nogil": True, "error_model": "numpy"}
FAST = {**PLAIN, "fastmath": {"reassoc", "contract", "nsz"}}
"""Fast-math flags that allow vector sums and fused multiply-add, but keep NaN and infinity."""


def unbound(function):
    """The function without its module's name.

    Numba imports a kernel's module, and those of the functions it calls, by name when it loads the kernel from its
    cache. A copy of this folder is a package of another name, so they get a module that is always there.
    """
    function.__module__ = "numba"
    return function


@njit(**FAST)
@unbound
def dot_1x1(C, cr, cc, A, ar, ak, B, br, bk, n):
    """One row by one column: two loads for each multiply-add."""
    a = A[ar, ak : ak + n]
    b = B[br, bk : bk + n]
    s = np.float32(0)
    for k in range(n):
        s += a[k] * b[k]
    C[cr, cc] += s


@njit(**FAST)
@unbound
def dot_1x4(C, cr, cc, A, ar, ak, B, br, bk, n):
    """One row by four columns, for experts with few tokens."""
    a = A[ar, ak : ak + n]
    b0, b1 = B[br, bk : bk + n], B[br + 1, bk : bk + n]
    b2, b3 = B[br + 2, bk : bk + n], B[br + 3, bk : bk + n]
    s0 = s1 = s2 = s3 = np.float32(0)
    for k in range(n):
        x = a[k]
        s0 += x * b0[k]
        s1 += x * b1[k]
        s2 += x * b2[k]
        s3 += x * b3[k]
    C[cr, cc] += s0
    C[cr, cc + 1] += s1
    C[cr, cc + 2] += s2
    C[cr, cc + 3] += s3


@njit(**FAST)
@unbound
def dot_2x2(C, cr, cc, A, ar, ak, B, br, bk, n):
    """Two rows by two columns: one load for each multiply-add."""
    a0, a1 = A[ar, ak : ak + n], A[ar + 1, ak : ak + n]
    b0, b1 = B[br, bk : bk + n], B[br + 1, bk : bk + n]
    s00 = s01 = s10 = s11 = np.float32(0)
    for k in range(n):
        s00 += a0[k] * b0[k]
        s01 += a0[k] * b1[k]
        s10 += a1[k] * b0[k]
        s11 += a1[k] * b1[k]
    C[cr, cc] += s00
    C[cr, cc + 1] += s01
    C[cr + 1, cc] += s10
    C[cr + 1, cc + 1] += s11


@njit(**FAST)
@unbound
def dot_4x2(C, cr, cc, A, ar, ak, B, br, bk, n):
    """Four rows by two columns: eight sums, six loads for eight multiply-adds."""
    a0, a1 = A[ar, ak : ak + n], A[ar + 1, ak : ak + n]
    a2, a3 = A[ar + 2, ak : ak + n], A[ar + 3, ak : ak + n]
    b0, b1 = B[br, bk : bk + n], B[br + 1, bk : bk + n]
    s00 = s01 = s10 = s11 = s20 = s21 = s30 = s31 = np.float32(0)
    for k in range(n):
        x, y = b0[k], b1[k]
        s00 += a0[k] * x
        s01 += a0[k] * y
        s10 += a1[k] * x
        s11 += a1[k] * y
        s20 += a2[k] * x
        s21 += a2[k] * y
        s30 += a3[k] * x
        s31 += a3[k] * y
    C[cr, cc] += s00
    C[cr, cc + 1] += s01
    C[cr + 1, cc] += s10
    C[cr + 1, cc + 1] += s11
    C[cr + 2, cc] += s20
    C[cr + 2, cc + 1] += s21
    C[cr + 3, cc] += s30
    C[cr + 3, cc + 1] += s31


@njit(**FAST)
@unbound
def dot_4x4(C, cr, cc, A, ar, ak, B, br, bk, n):
    """Four rows by four columns: sixteen sums, which just fill the sixteen registers of AVX2."""
    a0, a1 = A[ar, ak : ak + n], A[ar + 1, ak : ak + n]
    a2, a3 = A[ar + 2, ak : ak + n], A[ar + 3, ak : ak + n]
    b0, b1 = B[br, bk : bk + n], B[br + 1, bk : bk + n]
    b2, b3 = B[br + 2, bk : bk + n], B[br + 3, bk : bk + n]
    s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = np.float32(0)
    s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = np.float32(0)
    for k in range(n):
        x, y, z, w = b0[k], b1[k], b2[k], b3[k]
        s00 += a0[k] * x
        s01 += a0[k] * y
        s02 += a0[k] * z
        s03 += a0[k] * w
        s10 += a1[k] * x
        s11 += a1[k] * y
        s12 += a1[k] * z
        s13 += a1[k] * w
        s20 += a2[k] * x
        s21 += a2[k] * y
        s22 += a2[k] * z
        s23 += a2[k] * w
        s30 += a3[k] * x
        s31 += a3[k] * y
        s32 += a3[k] * z
        s33 += a3[k] * w
    C[cr, cc] += s00
    C[cr, cc + 1] += s01
    C[cr, cc + 2] += s02
    C[cr, cc + 3] += s03
    C[cr + 1, cc] += s10
    C[cr + 1, cc + 1] += s11
    C[cr + 1, cc + 2] += s12
    C[cr + 1, cc + 3] += s13
    C[cr + 2, cc] += s20
    C[cr + 2, cc + 1] += s21
    C[cr + 2, cc + 2] += s22
    C[cr + 2, cc + 3] += s23
    C[cr + 3, cc] += s30
    C[cr + 3, cc + 1] += s31
    C[cr + 3, cc + 2] += s32
    C[cr + 3, cc + 3] += s33


@njit(**FAST)
@unbound
def swiglu(first, rows, hidden):
    """hidden = silu(second half) * first half, for ``rows`` rows of ``first`` [rows, 2I]."""
    width = hidden.shape[1]
    for r in range(rows):
        for i in range(width):
            gate = first[r, width + i]
            hidden[r, i] = gate / (np.float32(1) + np.exp(-gate)) * first[r, i]
