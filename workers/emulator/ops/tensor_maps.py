"""TMA descriptors as the host encodes them: where the bytes of a box come from and where they go."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from ..errors import FaultError, UnknownInstructionError


@dataclass(frozen=True)
class TensorMap:
    """A tensor of bytes. Strides in bytes, without the first; ``swizzle`` 0 to 3 for none, 32, 64 and 128 bytes.

    Source: the fields' places are read off descriptors of known tensors.
    """

    base: int
    extents: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    swizzle: int

    @classmethod
    @functools.lru_cache(maxsize=64)
    def decode(cls, raw: bytes) -> TensorMap:
        """From the 128 bytes of a kernel's argument.

        Raises:
            UnknownInstructionError: The elements are no bytes, or there are element strides.
        """
        rank = (raw[8] >> 4) + 1
        words = np.frombuffer(raw, np.uint32)
        if raw[9] & 31:
            raise UnknownInstructionError(f"a tensor map of element type {raw[9] & 31}; bytes are known")
        return cls(
            int.from_bytes(raw[:8], "little"),
            tuple(int(words[8 + d]) + 1 for d in range(rank)),
            tuple(int(words[3 + d]) << 4 for d in range(rank - 1)),
            tuple(raw[55 + d] + 1 for d in range(rank)),
            raw[9] >> 5,
        )

    @property
    def bytes(self) -> int:
        """The number of bytes in a box."""
        return int(np.prod(self.box))

    def rows(self, at: tuple[int, ...]) -> np.ndarray:
        """Byte offsets of the first element of each row of the box at coordinates; -1 beyond the tensor."""
        offset = np.zeros(1, np.int64)
        inside = np.ones(1, np.bool_)
        for c, box, extent, stride in zip(at[1:], self.box[1:], self.extents[1:], self.strides, strict=True):
            here = np.arange(c, c + box, dtype=np.int64)
            offset = (here[:, None] * stride + offset).reshape(-1)
            inside = (((here >= 0) & (here < extent))[:, None] & inside).reshape(-1)
        return np.where(inside, offset, -1)

    def picked(self, rows: np.ndarray) -> np.ndarray:
        """Byte offsets of given rows of a matrix; -1 beyond the tensor."""
        return np.where((rows >= 0) & (rows < self.extents[1]), rows.astype(np.int64) * self.strides[0], -1)

    def content(self, data: np.ndarray, rows: np.ndarray, first: int) -> np.ndarray:
        """Bytes [rows, box[0]]: from column ``first`` on, zeros beyond the tensor.

        Raises:
            FaultError: The tensor map reaches beyond the tensor's memory.
        """
        width = self.box[0]
        columns = np.arange(first, first + width)
        inside = (rows >= 0)[:, None] & ((columns >= 0) & (columns < self.extents[0]))[None, :]
        where = np.where(inside, rows[:, None] + columns[None, :], 0)
        if where.max(initial=0) >= data.size:
            raise FaultError(f"a box reaches byte {int(where.max())} of a tensor of {data.size} bytes")
        return np.where(inside, data[where], 0).astype(np.uint8)

    def places(self, target: int, rows: int) -> np.ndarray:
        """Shared memory addresses [rows, box[0]] of a box that goes to ``target``."""
        width = self.box[0]
        linear = target + np.arange(rows * width, dtype=np.int64).reshape(rows, width)
        return swizzled(linear, self.swizzle)


def swizzled(addresses: np.ndarray, mode: int) -> np.ndarray:
    """Addresses after the exchange of 16-byte chunks: ``mode`` bits of the 128-byte line's number."""
    if mode == 0:
        return addresses
    return addresses ^ ((addresses >> 7 & ((1 << mode) - 1)) << 4)
