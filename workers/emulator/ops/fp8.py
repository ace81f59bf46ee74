"""Sums of FP8 products as the tensor cores make them.

PTX leaves open in which order and how exactly the 32 products of an MMA and the old sum are added. What the hardware
does is known from public measurements (Microsoft's MMA-Sim; DeepSeek-V3 reports the same limit on Hopper): all addends
are aligned to the largest exponent, cut (towards zero) to a number of fractional bits, added exactly, and the sum is
cut to the output's width. Hopper keeps 13 fractional bits and writes 13 of float32's 23; Blackwell keeps 25 and writes
all 23.
"""

from __future__ import annotations

import numba
import numpy as np

HOPPER, BLACKWELL = (13, 13), (25, 23)
"""(fractional bits kept of an addend, mantissa bits of the result)."""
_SMALLEST = -1000
"""Exponent of an addend that is zero: below every other."""


@numba.njit(cache=True)
def _parts() -> tuple[np.ndarray, np.ndarray]:
    """Signed significands (3 fractional bits) and exponents of the 256 FP8 E4M3 values; NaN has significand 99."""
    significands, exponents = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for code in range(256):
        size, field = code & 7, code >> 3 & 15
        if code & 127 == 127:
            significands[code] = 99
            continue
        value = size + 8 if field else size
        significands[code] = -value if code & 128 else value
        exponents[code] = field - 7 if field else -6
        if value == 0:
            exponents[code] = _SMALLEST
    return significands, exponents


@numba.njit(cache=True)
def _cut(value: np.int64, shift: np.int64) -> np.int64:
    """``value * 2**shift`` towards zero."""
    if shift >= 0:
        return value << shift
    if shift < -62:
        return np.int64(0)
    return -((-value) >> -shift) if value < 0 else value >> -shift


@numba.njit(cache=True)
def _exponent(word: np.int32) -> np.int32:
    """The exponent of a float32."""
    field = word >> 23 & 255
    if word & 0x7FFFFFFF == 0:
        return np.int32(_SMALLEST)
    return np.int32(field - 127 if field else -126)


@numba.njit(cache=True)
def _significand(word: np.int32) -> np.int64:
    """The signed significand of a float32, with 23 fractional bits."""
    size = np.int64(word & 0x7FFFFF)
    if word >> 23 & 255:
        size += 1 << 23
    return -size if word < 0 else size


@numba.njit(cache=True)
def _rounded(total: np.int64, exponent: np.int64, mantissa: np.int64) -> np.float32:
    """``total * 2**exponent`` as a float32 with that many mantissa bits, rounded towards zero."""
    size = -total if total < 0 else total
    if size == 0:
        return np.float32(0.0)
    bits = np.int64(0)
    while size >> bits:
        bits += 1
    keep = mantissa + 1
    lowest = exponent + bits - 1
    if lowest < -126:
        keep -= -126 - lowest
    if keep <= 0:
        return np.float32(0.0)
    if bits > keep:
        size = (size >> (bits - keep)) << (bits - keep)
    value = np.float64(size) * 2.0 ** np.float64(exponent)
    return np.float32(-value if total < 0 else value)


BIAS, NOT_A_SCALE = 127, 255
"""Of UE8M0: exponent of the byte 0, less its sign, and the byte that is NaN."""


def multiply(
    a: np.ndarray,
    b: np.ndarray,
    c: np.ndarray,
    fraction: int,
    mantissa: int,
    of_a: np.ndarray | None = None,
    of_b: np.ndarray | None = None,
) -> np.ndarray:
    """``c + a @ b.T`` for one MMA, of block-scaled ones with a scale for each row of ``a`` and ``b``.

    Shapes:
        a: [M, 32] FP8 E4M3 as bytes. b: [N, 32]. c: [M, N] float32. of_a: [M] UE8M0, none for 1. of_b: [N].
    """
    of_a = np.full(len(a), BIAS, np.int32) if of_a is None else of_a
    of_b = np.full(len(b), BIAS, np.int32) if of_b is None else of_b
    return _multiply(a, b, c, fraction, mantissa, of_a, of_b)


@numba.njit(cache=True, error_model="numpy")
def _multiply(
    a: np.ndarray, b: np.ndarray, c: np.ndarray, fraction: int, mantissa: int, of_a: np.ndarray, of_b: np.ndarray
) -> np.ndarray:
    """The inner loops run along the columns, so that they vectorise."""
    significands, exponents = _parts()
    rows, columns, depth = a.shape[0], b.shape[0], a.shape[1]
    out = np.empty(c.shape, np.float32)
    words = c.view(np.int32)
    sizes, signs, scales = (
        np.empty((depth, columns), np.int32),
        np.empty((depth, columns), np.int32),
        np.empty((depth, columns), np.int32),
    )
    bad_column = np.zeros(columns, np.bool_)
    for n in range(columns):
        for k in range(depth):
            value = significands[b[n, k]]
            bad_column[n] |= value == 99
            sizes[k, n], signs[k, n] = abs(value), -1 if value < 0 else 1
            scales[k, n] = exponents[b[n, k]] + of_b[n] - BIAS
        bad_column[n] |= of_b[n] == NOT_A_SCALE
    top, total = np.empty(columns, np.int32), np.empty(columns, np.int64)
    for m in range(rows):
        bad = of_a[m] == NOT_A_SCALE
        for n in range(columns):
            top[n] = _exponent(words[m, n])
        for k in range(depth):
            value, scale = significands[a[m, k]], np.int32(exponents[a[m, k]] + of_a[m] - BIAS)
            bad |= value == 99
            if value != 0:
                for n in range(columns):
                    top[n] = max(top[n], scale + scales[k, n])
        for n in range(columns):
            total[n] = _cut(_significand(words[m, n]), np.int64(fraction - 23 + _exponent(words[m, n]) - top[n]))
        for k in range(depth):
            value, scale = significands[a[m, k]], np.int32(exponents[a[m, k]] + of_a[m] - BIAS)
            if value == 0:
                continue
            size, sign = np.int32(abs(value) << (fraction - 6)), np.int32(-1 if value < 0 else 1)
            for n in range(columns):
                shift = min(top[n] - scale - scales[k, n], np.int32(31))
                total[n] += sign * signs[k, n] * ((size * sizes[k, n]) >> shift)
        for n in range(columns):
            if bad or bad_column[n] or (words[m, n] >> 23 & 255) == 255:
                out[m, n] = np.float32(np.nan)
            else:
                out[m, n] = _rounded(total[n], np.int64(top[n] - fraction), np.int64(mantissa))
    return out
