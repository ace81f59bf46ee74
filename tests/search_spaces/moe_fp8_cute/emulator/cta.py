"""A CTA's shared and tensor memory, and its warps."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .memory import GRANULE, INSIDE, LINE, Barrier, FaultError, Lines
from .ptx import DYNAMIC_SMEM, Kernel
from .simt import Warps

if TYPE_CHECKING:
    from .machine import Cluster


class Warp(Warps):
    """A warp of a CTA."""

    def __init__(self, kernel: Kernel, cta: Cta, number: int, special: dict):
        super().__init__(kernel, special, cta.cluster)
        self.cta, self.number = cta, number
        self.waited = False
        self.blocked_at = -1
        self.waiting: dict = {}
        self.waits: Counter = Counter()
        """Phases that this warp has waited for, by (CTA, barrier)."""
        self.copying: list[np.ndarray] = []
        """Shared memory that cp.async of this warp writes and no barrier has been told of."""
        self.accumulators: list = []
        """Tensor memory that MMAs write, without a commit so far."""
        self.finishing: list[Callable[[], None]] = []
        """What commits and arrivals of asynchronous work of this warp bring about, in order."""
        self.loading = False
        """Whether a load from tensor memory was not waited for."""
        self.groups: list[list] = [[]]
        """Shared memory that wgmmas read, by commit group; the last one is open."""

    def __repr__(self) -> str:
        return f"CTA {self.cta.rank} warp {self.number}"


class Cta:
    """Shared memory and barriers of one CTA of the cluster."""

    def __init__(self, cluster: Cluster, rank: int, threads: int, smem: int):
        self.cluster, self.rank = cluster, rank
        self.size = smem
        self.memory = np.zeros(smem + 64, np.uint8)
        self.barriers: dict[int, Barrier] = {}
        self.named: dict[int, list[int]] = defaultdict(lambda: [0, 0])
        """Named barriers: threads that have arrived, generation."""
        granules = smem // GRANULE + 2
        self.writing, self.reading = np.zeros(granules, np.int32), np.zeros(granules, np.int32)
        self.threads = threads
        lines = smem // LINE + 1
        self.sources = np.full(lines, "", object)
        self.rows, self.blocks = np.full(lines, -1, np.int64), np.full(lines, -1, np.int64)
        self.has_permit = True
        self.allocated: dict[int, int] = {}
        """Tensor memory: first column -> columns."""
        self.accumulating = np.zeros(512, np.int32)
        """MMAs under way into each column."""
        self.loads: list[set[int]] = [set() for _ in range(512)]
        """Warps that have loaded each column since it was overwritten."""
        self.is_filled = np.zeros(512, bool)

    def offsets(self, addresses: np.ndarray, size: int) -> np.ndarray:
        """Offsets into the dynamic allocation."""
        out = (addresses.astype(np.int64) & INSIDE) - DYNAMIC_SMEM
        if out.size and (out.min() < 0 or out.max() + size > self.size):
            raise FaultError(f"shared memory {out.min()}..{out.max() + size} of {self.size} bytes")
        return out

    def fill(self, address: int, source: str, rows: np.ndarray, block: Any) -> None:
        """Note what a copy brings."""
        first = int(self.offsets(np.array([address]), LINE)[0]) // LINE
        part = slice(first, first + len(rows))
        self.sources[part], self.rows[part], self.blocks[part] = source, rows, np.where(rows < 0, -1, block)

    def lines(self, address: int, count: int) -> Lines:
        """What an MMA reads."""
        first = int(self.offsets(np.array([address]), LINE)[0]) // LINE
        part = slice(first, first + count)
        return Lines(frozenset(self.sources[part]), self.rows[part].copy(), self.blocks[part].copy())

    def granules(self, address: int, size: int) -> slice:
        """Conflict counters of a range."""
        first = int(self.offsets(np.array([address]), size)[0])
        return slice(first // GRANULE, -(-(first + size) // GRANULE))
