"""What the machine is made of: tensors, mbarriers, TMA descriptors, and records of what was copied and multiplied."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

PARAMETERS = 0x1000_0000_0000
PARAMETER_RANGE = 4096
RANK_SHIFT = 24
INSIDE = (1 << RANK_SHIFT) - 1
"""A shared memory address carries the rank of its CTA above this bit, its own CTA's too."""
LINE = 128
"""Bytes of a row's K block in shared memory; a swizzle only moves the 16-byte chunks inside it."""
GRANULE = 16
"""Bytes of shared memory that one conflict counter covers."""
TURNS = 40_000
"""Turns of warps and copies after which a run is taken for endless; those of the tests take some thousands."""


class DeadlockError(Exception):
    """No warp can go on and nothing is on its way."""


class FaultError(Exception):
    """Something that corrupts data or hangs on the device."""


@dataclass
class Region:
    """A tensor in global memory.

    Args:
        name: Name.
        base: Address.
        size: Bytes.
        data: What loads see; zeros where there is nothing.
        early: May be touched before ``griddepcontrol.wait``: no kernel of the pipeline writes it.
    """

    name: str
    base: int
    size: int
    data: np.ndarray | None = None
    early: bool = False
    stores: list[tuple] = field(default_factory=list)
    """(CTA rank, warp, byte offsets, bytes at each, ``st`` or ``red``) in order."""

    def times(self, kind: str) -> np.ndarray:
        """How often each byte was stored to (``st``) or added to (``red``)."""
        count = np.zeros(self.size, np.uint8)
        for _, _, offsets, size, how in self.stores:
            if how == kind:
                np.add.at(count, offsets[:, None] + np.arange(size), 1)
        return count

    def load(self, offsets: np.ndarray, bits: int) -> np.ndarray:
        """Unsigned values at byte offsets."""
        dtype = np.dtype(f"u{bits // 8}")
        if self.data is None:
            return np.zeros(offsets.shape, dtype)
        return self.data.view(np.uint8).reshape(-1).view(dtype)[offsets // (bits // 8)]


@dataclass
class Barrier:
    """An mbarrier: ``phase`` counts completed phases; ``bytes`` are expected less arrived ones of the current phase."""

    count: int
    pending: int = 0
    bytes: int = 0
    phase: int = 0

    def __post_init__(self):
        self.pending = self.count

    def arrive(self, number: int = 1) -> None:
        """Arrivals."""
        self.pending -= number
        if self.pending < 0:
            raise FaultError(f"more arrivals than the {self.count} of a phase")
        self.settle()

    def transact(self, size: int) -> None:
        """Expect (positive) or complete (negative) bytes."""
        self.bytes += size
        self.settle()

    def settle(self) -> None:
        """Complete the phase when nothing is missing."""
        if self.pending == 0 and self.bytes == 0:
            self.phase += 1
            self.pending = self.count

    def passed(self, parity: int) -> bool:
        """Whether the phase of that parity is over."""
        return self.phase % 2 != parity


@dataclass(frozen=True)
class Copy:
    """An asynchronous copy into shared memory.

    Args:
        rank: CTA that issued it.
        warp: Warp that issued it.
        kind: ``tensor`` (a TMA box), ``bulk`` or ``cp.async`` (one instruction of a warp).
        source: Region, None where a whole cp.async only writes zeros.
        at: Coordinates of a box, fastest first; byte offset; or the threads' byte offsets, -1 where zeros are written.
        size: Bytes: of the box, of the bulk copy, of one thread's piece.
        targets: CTAs that receive it.
    """

    rank: int
    warp: int
    kind: str
    source: str | None
    at: Any
    size: int
    targets: tuple[int, ...]


@dataclass(frozen=True)
class Lines:
    """What rows of 128 bytes in shared memory hold: ``rows[i]`` of ``source``, K block ``blocks[i]``.

    A row is counted from the source's first one; -1 where it was filled with zeros.
    """

    source: frozenset[str]
    rows: np.ndarray
    blocks: np.ndarray


@dataclass(frozen=True)
class Mma:
    """The first of the MMAs of a K block and accumulator: operands in the CTAs that it reads."""

    rank: int
    warp: int
    a: list[Lines]
    b: list[Lines]


@dataclass
class Descriptor:
    """A TMA descriptor as the host encoded it. Strides in bytes, without the first; elements are bytes.

    Source: the fields' places are read off descriptors of known tensors.
    """

    base: int
    extents: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]

    @classmethod
    def decode(cls, raw: bytes) -> Descriptor:
        """From the 128 bytes of a kernel's argument."""
        rank = (raw[8] >> 4) + 1
        words = np.frombuffer(raw, np.uint32)
        return cls(
            int.from_bytes(raw[:8], "little"),
            tuple(int(words[8 + d]) + 1 for d in range(rank)),
            tuple(int(words[3 + d]) << 4 for d in range(rank - 1)),
            tuple(raw[55 + d] + 1 for d in range(rank)),
        )

    def rows(self, at: tuple[int, ...]) -> np.ndarray:
        """Rows of the box at coordinates, as they follow each other in shared memory; -1 beyond the tensor."""
        grids = np.meshgrid(
            *[np.arange(c, c + b) for c, b in zip(at[:0:-1], self.box[:0:-1], strict=True)], indexing="ij"
        )
        coordinates = [g.reshape(-1) for g in grids][::-1]
        inside = np.ones(coordinates[0].shape, bool)
        offset = np.zeros(coordinates[0].shape, np.int64)
        for c, extent, stride in zip(coordinates, self.extents[1:], self.strides, strict=True):
            inside &= (c >= 0) & (c < extent)
            offset += c * stride
        return np.where(inside, offset // self.strides[0], -1)

    @property
    def bytes(self) -> int:
        """Bytes of a box."""
        return int(np.prod(self.box))
