"""Descriptors of matrices in shared memory, and of the instruction: which bytes an MMA multiplies.

Source: PTX ISA, "Matrix Descriptor Format" of wgmma and "Shared memory descriptor", "Instruction descriptor" of
tcgen05. Only K-major matrices of bytes are known; anything else is refused.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from ..errors import FaultError, UnknownInstructionError
from .tensor_maps import swizzled

K_BYTES = 32
"""K extent of one FP8 MMA, in bytes."""
_WGMMA_SWIZZLE = {0: 0, 1: 3, 2: 2, 3: 1}
_TCGEN05_SWIZZLE = {0: 0, 2: 3, 4: 2, 6: 1}
"""Descriptor field -> log2 of the chunks that the swizzle exchanges (as in a tensor map)."""


@dataclass(frozen=True)
class Matrix:
    """A K-major matrix of bytes: rows of ``K_BYTES`` from ``start`` on.

    Args:
        start: Shared memory address.
        leading: Bytes between core matrices along K (without swizzle).
        stride: Bytes between groups of eight rows.
        swizzle: 0 to 3 for none, 32, 64 and 128 bytes.
    """

    start: int
    leading: int
    stride: int
    swizzle: int

    @classmethod
    def decode(cls, value: int, is_blackwell: bool) -> Matrix:
        """From a descriptor of wgmma or tcgen05.

        Raises:
            FaultError: A field has a value that the hardware does not take.
        """
        fields = _TCGEN05_SWIZZLE if is_blackwell else _WGMMA_SWIZZLE
        mode = value >> 61 & 7 if is_blackwell else value >> 62 & 3
        if mode not in fields:
            raise FaultError(f"a matrix descriptor with swizzle mode {mode}")
        if is_blackwell and value >> 46 & 7 != 1:
            raise FaultError(f"a matrix descriptor of version {value >> 46 & 7}")
        if value >> 49 & 7:
            raise UnknownInstructionError(f"a matrix descriptor with base offset {value >> 49 & 7}")
        start, leading, stride = ((value >> at & 0x3FFF) << 4 for at in (0, 16, 32))
        return cls(start, leading, stride, fields[mode])

    def addresses(self, rows: int) -> np.ndarray:
        """Shared memory addresses [rows, 32]."""
        return self.start + _shape(rows, self.leading, self.stride, self.swizzle, self.start & 1023)


@functools.lru_cache(maxsize=256)
def _shape(rows: int, leading: int, stride: int, swizzle: int, phase: int) -> np.ndarray:
    """Offsets from the start; ``phase`` is its place in the swizzle's pattern."""
    row, k = np.arange(rows, dtype=np.int64)[:, None], np.arange(K_BYTES, dtype=np.int64)[None, :]
    if swizzle == 0:
        return row // 8 * stride + row % 8 * 16 + k // 16 * leading + k % 16
    linear = row // 8 * stride + row % 8 * (16 << swizzle) + k
    return swizzled(phase + linear, swizzle) - phase


@dataclass(frozen=True)
class Shape:
    """An instruction descriptor of tcgen05.mma: rows of A, columns of D."""

    m: int
    n: int

    @classmethod
    def decode(cls, value: int) -> Shape:
        """From the 32 bits.

        Raises:
            UnknownInstructionError: Not FP8 E4M3 times E4M3 into float32, both K-major.
        """
        wanted = {"float32 sums": (4, 2, 1), "E4M3 for A": (7, 3, 0), "E4M3 for B": (10, 3, 0)}
        for what, (at, bits, number) in wanted.items():
            if value >> at & ((1 << bits) - 1) != number:
                raise UnknownInstructionError(f"an instruction descriptor {value:#x} without {what}")
        if value & 0b1100 or value >> 13 & 15 or value >> 23 & 1 or value >> 29:
            raise UnknownInstructionError(f"an instruction descriptor {value:#x} with unknown fields")
        return cls((value >> 24 & 31) * 16, (value >> 17 & 63) * 8)


@dataclass(frozen=True)
class ScaledShape(Shape):
    """The same of kind::mxf8f6f4, and which byte of a word of tensor memory has the scale of A, and of B."""

    a_id: int
    b_id: int

    @classmethod
    def decode(cls, value: int) -> ScaledShape:
        """From the 32 bits.

        Raises:
            UnknownInstructionError: Not FP8 E4M3 times E4M3 with UE8M0 scales, both K-major.
        """
        if not value >> 23 & 1:
            raise UnknownInstructionError(f"an instruction descriptor {value:#x} without UE8M0 scales")
        if value & 0b1111 or value >> 6 & 0x7FF or value >> 24 & 7 or value >> 31:
            raise UnknownInstructionError(f"an instruction descriptor {value:#x} with unknown fields")
        return cls((value >> 27 & 3) * 128, (value >> 17 & 63) * 8, value >> 29 & 3, value >> 4 & 3)
