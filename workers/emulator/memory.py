"""Global memory: tensors as bytes, which kernels touched them, and which may be used before an earlier kernel ends."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from .errors import FaultError
from .registers import POISON


@dataclass
class Region:
    """A tensor, or a section of a workspace.

    Args:
        name: Name.
        base: Address.
        data: Its bytes.
    """

    name: str
    base: int
    data: np.ndarray
    is_logged: bool = False
    stores: list[tuple[int, int, np.ndarray, int, str]] = field(default_factory=list)
    """Where ``is_logged``: (block, warp, byte offsets, bytes at each, ``st`` or ``red``) in order."""

    def times(self, kind: str) -> np.ndarray:
        """How often each byte was stored to (``st``) or added to (``red``)."""
        count = np.zeros(self.data.size, np.uint8)
        for _, _, offsets, size, how in self.stores:
            if how == kind:
                np.add.at(count, offsets[:, None] + np.arange(size), 1)
        return count

    def words(self, dtype: str) -> np.ndarray:
        """The bytes as numbers; an incomplete one at the end is left out."""
        size = np.dtype(dtype).itemsize
        return self.data[: self.data.size // size * size].view(dtype)


class GlobalMemory:
    """All tensors of a call.

    ``written`` and ``touched`` collect the names of the regions that the kernel under way writes and touches; the
    regions in ``running_writes`` and ``running_touches`` belong to kernels that may not have ended when it starts.
    Where it ``must_wait``, at least one of its warps must have waited for them at its end, so that whoever waits for
    this kernel has waited for those before it too.
    """

    def __init__(self, regions: Iterable[Region]):
        self.regions = sorted(regions, key=lambda r: r.base)
        self.by_name = {r.name: r for r in self.regions}
        self._bases = [r.base for r in self.regions]
        self._array = np.array(self._bases, np.uint64)
        self.written: set[str] = set()
        self.touched: set[str] = set()
        self.running_writes: frozenset[str] = frozenset()
        self.running_touches: frozenset[str] = frozenset()
        self.triggers_early = False
        self.must_wait = False

    @classmethod
    def of(cls, memory: dict[str, tuple[int, int]], contents: dict[str, np.ndarray]) -> GlobalMemory:
        """Memory with tensors at (address, bytes); those without contents are filled with poison.

        Raises:
            ValueError: Contents are larger than their tensor.
        """
        regions = []
        for name, (base, size) in memory.items():
            data = np.full(size, POISON, np.uint8)
            if name in contents:
                raw = np.ascontiguousarray(contents[name]).reshape(-1).view(np.uint8)
                if raw.size > size:
                    raise ValueError(f"{name} has {size} bytes, {raw.size} are given")
                data[: raw.size] = raw
            regions.append(Region(name, base, data))
        return cls(regions)

    def find(self, addresses: np.ndarray, size: int, waited: bool, writes: bool) -> tuple[Region, np.ndarray]:
        """The one region that all addresses fall into, and the offsets.

        Args:
            addresses: Of the first byte that each lane touches.
            size: Bytes that each lane touches.
            waited: Whether the warp has executed griddepcontrol.wait.
            writes: Whether it writes them.

        Raises:
            FaultError: Outside all tensors, not aligned, or too early.
        """
        low = addresses.min()
        index = int(np.searchsorted(self._array, low, side="right")) - 1
        region = self.regions[max(index, 0)]
        offsets = addresses.astype(np.int64) - region.base
        if index < 0 or offsets.max() + size > region.data.size:
            raise FaultError(
                f"global address {offsets.min()}..{offsets.max() + size} from {region.name} on, which has "
                f"{region.data.size} bytes"
            )
        if size in (2, 4, 8, 16) and (offsets % size).any():
            raise FaultError(f"{region.name} is accessed at {offsets.min()}, which is no multiple of {size}")
        if not waited and region.name in (self.running_touches if writes else self.running_writes):
            how = "written" if writes else "read"
            raise FaultError(f"{region.name} is {how} before griddepcontrol.wait")
        self.touched.add(region.name)
        if writes:
            self.written.add(region.name)
        return region, offsets

    def next_kernel(self, is_programmatic: bool, is_beside: bool = False) -> None:
        """Note that a kernel starts, and what it must not touch before it has waited.

        Args:
            is_programmatic: Launched programmatically.
            is_beside: It shares its work with the previous kernel (other rows of the same tensors): both count as one.
        """
        self.must_wait = is_programmatic and is_beside
        if self.must_wait:
            if not self.triggers_early:
                # The kernel before had waited when it let this one start.
                self.running_writes = self.running_touches = frozenset()
            self.triggers_early = False
            return
        if not is_programmatic:
            self.running_writes = self.running_touches = frozenset()
        else:
            # The kernel before may have started before its own predecessors had ended, and let this one start then.
            before = (self.running_writes, self.running_touches) if self.triggers_early else (frozenset(), frozenset())
            self.running_writes = before[0] | self.written
            self.running_touches = before[1] | self.touched
        self.written, self.touched, self.triggers_early = set(), set(), False
