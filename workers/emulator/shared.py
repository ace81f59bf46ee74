"""The state of a CTA: shared memory, mbarriers, named barriers and tensor memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from .errors import FaultError
from .ptx import DYNAMIC_SMEM
from .registers import POISON

RANK_SHIFT = 24
INSIDE = (1 << RANK_SHIFT) - 1
"""A shared memory address carries the rank of its CTA above this bit, its own CTA's too."""
GRANULE = 16
"""Bytes of shared memory that one conflict counter covers."""
TMEM_LANES, TMEM_COLUMNS = 128, 512


@dataclass
class Barrier:
    """An mbarrier: ``phase`` counts completed phases; ``bytes`` are expected less arrived ones of the current phase."""

    count: int
    warps: int
    pending: int = 0
    bytes: int = 0
    phase: int = 0
    clock: np.ndarray = field(init=False, repr=False)
    """Vector clock that a waiter takes over when the barrier completes."""

    def __post_init__(self) -> None:
        self.pending = self.count
        self.clock = np.zeros(self.warps, np.int64)

    def arrive(self, number: int = 1) -> None:
        """Count arrivals.

        Raises:
            FaultError: The phase expects fewer.
        """
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


class Cta:
    """One CTA of a cluster.

    Args:
        block: Its index in the grid.
        rank: In the cluster.
        threads: Its threads.
        smem: Bytes of dynamic shared memory.
        warps: Warps of the cluster.
    """

    def __init__(self, block: int, rank: int, threads: int, smem: int, warps: int):
        self.block, self.rank, self.threads, self.size = block, rank, threads, smem
        self.base = DYNAMIC_SMEM + (rank << RANK_SHIFT)
        self.memory = np.full(smem + 64, POISON, np.uint8)
        self.barriers: dict[int, Barrier] = {}
        self.named: dict[int, list[int]] = defaultdict(lambda: [0, 0])
        """Named barriers: threads that have arrived, generation."""
        self.clocks: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(warps, np.int64))
        """Merged vector clocks of the warps that meet at a named barrier."""
        granules = smem // GRANULE + 4
        self.writing, self.reading = np.zeros(granules, np.int32), np.zeros(granules, np.int32)
        self.writer = np.full(granules, -1, np.int16)
        """Warp whose ordinary store no proxy fence has made visible to the asynchronous proxy, -1 for none."""
        self.stamp = np.zeros(granules, np.int64)
        """When it stored, by its own clock."""
        self.told_rank = np.full(granules, -1, np.int64)
        """Rank of the CTA whose mbarrier signals the last asynchronous copy, -1 for none."""
        self.told_at, self.told_phase = np.zeros(granules, np.int64), np.zeros(granules, np.int64)
        """The mbarrier's address and the phase that the copy completes."""
        self.has_permit = True
        self.allocated: dict[int, int] = {}
        """Tensor memory: first column -> columns."""
        self._tensor_memory: np.ndarray | None = None
        self.accumulating = np.zeros(TMEM_COLUMNS, np.int32)
        """Number of unfinished MMAs that write each column."""
        self.scaling = np.zeros(TMEM_COLUMNS, np.int32)
        """Number of unfinished MMAs that take scales from each column."""
        self.commits: list[tuple[int, int, int] | None] = [None] * TMEM_COLUMNS
        """(rank, address, phase) of the mbarrier that signalled that a column is complete."""
        self.drains: list[dict[int, int]] = [{} for _ in range(TMEM_COLUMNS)]
        """Warps that have loaded each column since it was overwritten, and their clocks then."""

    @property
    def tensor_memory(self) -> np.ndarray:
        """[128 lanes, 512 columns] of 32 bits."""
        if self._tensor_memory is None:
            self._tensor_memory = np.full((TMEM_LANES, TMEM_COLUMNS), 0xFFFFFFFF, np.uint32)
        return self._tensor_memory

    def offsets(self, addresses: np.ndarray, size: int) -> np.ndarray:
        """Offsets into the dynamic allocation.

        Raises:
            FaultError: Outside of it, or not aligned.
        """
        out = (addresses.astype(np.int64) & INSIDE) - DYNAMIC_SMEM
        if out.size and (out.min() < 0 or out.max() + size > self.size):
            raise FaultError(f"shared memory {out.min()}..{out.max() + size} of {self.size} bytes")
        if size in (2, 4, 8, 16) and (out % size).any():
            raise FaultError(f"shared memory at {out.min()} is no multiple of {size}")
        return out

    def granules(self, address: int, size: int) -> slice:
        """The conflict counters that cover a range of bytes."""
        first = int(self.offsets(np.array([address]), 1)[0])
        self.offsets(np.array([address + size - 1]), 1)
        return slice(first // GRANULE, -(-(first + size) // GRANULE))

    def told(self, part: np.ndarray | slice, rank: int, address: int, phase: int) -> None:
        """Note that a copy has arrived in granules, and which mbarrier signals it."""
        self.told_rank[part], self.told_at[part], self.told_phase[part] = rank, address, phase

    def check_waited(self, waits: Mapping[tuple[int, int], int], part: np.ndarray) -> None:
        """Check that a reader of copied data has waited for the copy.

        Args:
            waits: Phases that the reader has seen complete, by (rank, address) of an mbarrier.
            part: Granules that are read.

        Raises:
            FaultError: The reader has not waited.
        """
        part = part[self.told_rank[part] >= 0]
        if not part.size:
            return
        keys = set(zip(self.told_rank[part].tolist(), self.told_at[part].tolist(), self.told_phase[part].tolist(),
                       strict=True))  # fmt: skip
        for rank, address, phase in keys:
            if waits.get((rank, address), 0) <= phase:
                place = self.named_place(int(part.min()) * GRANULE + DYNAMIC_SMEM)
                raise FaultError(f"{place} is read without having waited for the copy")

    def named_place(self, address: int) -> str:
        """A place in shared memory, for messages."""
        return f"shared memory {(address & INSIDE) - DYNAMIC_SMEM} of CTA {self.block}"
