"""Decoding fp8 e4m3 to float32, by a table or by shifts.

Both ways exist for a row of activations and for a part of a weight matrix. They are written out, since Numba's on-disk
cache refuses kernels that get another compiled function as an argument.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .dots import PLAIN, unbound

EXPONENT = np.float32(2.0**120)
"""An e4m3 bit pattern moved to float32's exponent and mantissa is too small by this factor (bias 7 against 127)."""


def fp8_table():
    """float32 value of each of the 256 patterns of float8_e4m3fn."""
    code = np.arange(256)
    exponent, mantissa = (code >> 3) & 15, code & 7
    normal = (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    value = np.where(exponent == 0, mantissa / 8 * 2.0**-6, normal)
    value[(code & 127) == 127] = np.nan
    return np.where(code & 128, -value, value).astype(np.float32)


@intrinsic
def as_float(typing_context, bits):
    """The float32 with these 32 bits."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@intrinsic
def as_bits(typing_context, value):
    """The 32 bits of a float32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@njit(**PLAIN)
@unbound
def bfloat16_bits(value):
    """The 16 bits of the bfloat16 nearest to a float32; ties go to the even one, NaN stays NaN."""
    bits = as_bits(value)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.uint16(0x7FC0) if value != value else np.uint16(rounded)


@njit(**PLAIN)
@unbound
def value_of(code):
    """float32 value of one fp8 code by shifts, which vectorise; exact for subnormals too."""
    magnitude = np.uint32(code) & np.uint32(0x7F)
    bits = (magnitude << np.uint32(20)) | ((np.uint32(code) & np.uint32(0x80)) << np.uint32(24))
    if magnitude == np.uint32(0x7F):
        bits = np.uint32(0x7FC00000)
    return as_float(bits) * EXPONENT


@njit(**PLAIN)
@unbound
def gather_by_table(token, x, x_scale, table, out, r):
    """Decode one token's row into ``out[r]`` by look-up; zeros for a filling row (token -1)."""
    for k in range(x.shape[1]):
        out[r, k] = 0 if token < 0 else table[x[token, k]] * x_scale[k // 128, token]


@njit(**PLAIN)
@unbound
def gather_by_bits(token, x, x_scale, out, r):
    """Decode one token's row into ``out[r]`` by shifts; zeros for a filling row (token -1)."""
    source = 0 if token < 0 else token
    for b in range(x_scale.shape[0]):
        scale = np.float32(0) if token < 0 else x_scale[b, token]
        for k in range(b * 128, b * 128 + 128):
            out[r, k] = value_of(x[source, k]) * scale


@njit(**PLAIN)
@unbound
def weights_by_table(w, s, e, n0, n1, k0, k1, table, out):
    """Decode rows n0..n1 and columns k0..k1 of expert e's matrix into the start of ``out`` by look-up."""
    for n in range(n0, n1):
        for k in range(k0, k1):
            out[n - n0, k - k0] = table[w[e, n, k]] * s[e, n // 128, k // 128]


@njit(**PLAIN)
@unbound
def weights_by_bits(w, s, e, n0, n1, k0, k1, out):
    """Decode rows n0..n1 and columns k0..k1 of expert e's matrix into the start of ``out`` by shifts.

    K blocks divide 128 or are multiples of it, so each run of 32 values has one scale.
    """
    for n in range(n0, n1):
        for run in range(k0, k1, 32):
            codes, values = w[e, n, run : run + 32], out[n - n0, run - k0 : run - k0 + 32]
            scale = s[e, n // 128, run // 128]
            for k in range(32):
                values[k] = value_of(codes[k]) * scale
