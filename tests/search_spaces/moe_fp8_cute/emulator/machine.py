"""A cluster of CTAs that execute a kernel: memory, mbarriers, asynchronous copies, and a random scheduler.

What is checked while it runs: every phase of every barrier completes (else :class:`DeadlockError` tells who waits for
what), no more arrivals than a phase has, all accesses inside their tensors and inside shared memory, nothing is read
from shared memory while a copy is still writing it and nothing overwritten while it is still read, and nothing that an
earlier kernel makes is touched before ``griddepcontrol.wait``. Global accesses and copies are logged.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping

import numpy as np

from .barriers import Barriers
from .copies import Copies
from .cta import Cta, Warp
from .memory import (
    GRANULE,
    INSIDE,
    PARAMETER_RANGE,
    PARAMETERS,
    RANK_SHIFT,
    TURNS,
    Barrier,
    Copy,
    DeadlockError,
    Descriptor,
    FaultError,
    Mma,
    Region,
)
from .ptx import DYNAMIC_SMEM, Instruction, Kernel
from .rules import WARP, Blocked, UnknownInstructionError, type_of
from .simt import prepared
from .tensor_cores import TensorCores


class Cluster(Barriers, Copies, TensorCores):
    """CTAs ``first .. first + size`` of a grid, executed together.

    Args:
        kernel: The code.
        arguments: Bytes of each parameter in order.
        first: Block index of rank 0.
        size: CTAs of the cluster.
        grid: CTAs of the grid.
        threads: Threads of a CTA.
        smem: Bytes of dynamic shared memory.
        regions: Tensors in global memory.
        seed: Of the order in which warps run and copies complete.
        promoters: Warps that load every accumulator out of tensor memory.
        pitches: Bytes of a row of tensors whose rows come in chunks, by name.
        pdl: Launched programmatically: what earlier kernels make is there after ``griddepcontrol.wait`` only.
    """

    def __init__(
        self,
        kernel: Kernel,
        arguments: list[bytes],
        *,
        first: int,
        size: int,
        grid: int,
        threads: int,
        smem: int,
        regions: list[Region],
        seed: int = 0,
        pdl: bool = True,
        promoters: int = 0,
        pitches: Mapping[str, int] | None = None,
    ):
        kernel = prepared(kernel)
        self.kernel, self.arguments = kernel, arguments
        self.names = list(kernel.parameters)
        self.regions = sorted(regions, key=lambda r: r.base)
        self.bases = np.array([r.base for r in self.regions], np.uint64)
        self.random = random.Random(seed)
        self.pdl, self.promoters, self.pitches = pdl, promoters, dict(pitches or {})
        self.version = 0
        self.pending: list[Callable[[], None]] = []
        self.mmas: list[Mma] = []
        self.copies: list[Copy] = []
        """In the order in which they were issued."""
        self.cluster_arrived, self.cluster_generation = 0, 0
        self.ctas = [Cta(self, rank, threads, smem) for rank in range(size)]
        self.warps = [
            Warp(kernel, cta, number, self._special(cta, number, first, size, grid, threads))
            for cta in self.ctas
            for number in range(threads // WARP)
        ]

    def _special(self, cta: Cta, number: int, first: int, size: int, grid: int, threads: int) -> dict:
        lanes = np.arange(WARP, dtype=np.uint32) + WARP * number
        return {
            "%tid.x": lanes, "%tid.y": 0, "%tid.z": 0, "%ntid.x": threads, "%ntid.y": 1, "%ntid.z": 1,
            "%ctaid.x": first + cta.rank, "%ctaid.y": 0, "%ctaid.z": 0, "%nctaid.x": grid, "%nctaid.y": 1,
            "%cluster_ctarank": cta.rank, "%cluster_nctarank": size, "%cluster_ctaid.x": cta.rank,
            "%clusterid.x": first // size, "%is_explicit_cluster": 1, "%warpid": number,
        }  # fmt: skip

    # Running.

    def run(self) -> None:
        """Until every warp has ended.

        Raises:
            DeadlockError, FaultError: See the module.
        """
        left = list(self.warps)
        for turn in itertools.count():
            if not left:
                break
            if turn == TURNS:
                raise DeadlockError(f"no end after {TURNS} turns\n{self.explain(left)}")
            ready = [w for w in left if w.blocked_at != self.version]
            if self.pending and (not ready or self.random.random() < 0.3):
                for _ in range(self.random.randint(1, min(16, len(self.pending)))):
                    self.pending.pop(self.random.randrange(len(self.pending)))()
                self.version += 1
            elif not ready:
                raise DeadlockError(self.explain(left))
            else:
                warp = self.random.choice(ready)
                if not self._advance(warp, self.random.randint(1, 400)):
                    left.remove(warp)
                    self.version += 1
        while self.pending:
            self.pending.pop()()
        self._leftovers()

    def _advance(self, warp: Warp, steps: int) -> bool:
        try:
            for _ in range(steps):
                if not warp.step():
                    return False
        except Blocked:
            warp.blocked_at = self.version
        except (UnknownInstructionError, FaultError) as error:
            raise type(error)(f"{warp} at {self.kernel.code[warp.here]}: {error}") from error
        return True

    def _leftovers(self) -> None:
        """Half a phase of arrivals at the end would be taken for the next tile's, and a copy could hit a later CTA."""
        for cta in self.ctas:
            if cta.allocated:
                raise FaultError(f"CTA {cta.rank} ends with tensor memory {cta.allocated}")
            if cta.writing.any() or cta.reading.any() or cta.accumulating.any():
                raise FaultError(f"CTA {cta.rank} ends while its shared memory is still written or read")
            for address, barrier in cta.barriers.items():
                if barrier.bytes or barrier.pending != barrier.count:
                    raise FaultError(f"{self.named(cta, address)} ends inside a phase: {barrier}")
                for w in self.warps:
                    waits = w.waits.get((cta.rank, address), barrier.phase)
                    # A producer's first wait finds an empty stage; where it also waits for the end, it has one more.
                    if waits != barrier.phase and not (w.number < 4 and waits == barrier.phase + 1):
                        raise FaultError(
                            f"{w} waited {waits} times on {self.named(cta, address)}, which had {barrier.phase} phases"
                        )

    @staticmethod
    def named(cta: Cta, address: int) -> str:
        """A place in shared memory, for messages."""
        return f"shared memory {address - DYNAMIC_SMEM} of CTA {cta.rank}"

    def explain(self, left: list[Warp]) -> str:
        """Who waits where."""
        lines = []
        for w in left:
            i = self.kernel.code[w.here]
            text = f"{w} waits at {i.opcode} {i.operands}"
            if i.parts[0] == "mbarrier":
                address = int(w.address(i.operands[1], 32).max()) & INSIDE
                b = w.cta.barriers.get(address)
                parity = int(w.value(i.operands[2], 32).max())
                text += f": barrier at {address - DYNAMIC_SMEM}, parity {parity}, {b}"
            lines.append(text)
        return "\n".join(lines)

    # Memory.

    def parameter_address(self, name: str) -> int:
        """Generic address of a parameter."""
        return PARAMETERS + PARAMETER_RANGE * self.names.index(name)

    def smem_address(self, w: Warp) -> int:
        """Where the dynamic shared memory of the warp's CTA begins."""
        return DYNAMIC_SMEM + (w.cta.rank << RANK_SHIFT)

    def descriptor(self, address: int) -> Descriptor:
        """The TMA descriptor there."""
        return Descriptor.decode(self.arguments[(address - PARAMETERS) // PARAMETER_RANGE])

    def touch(self, w: Warp, addresses: np.ndarray, size: int) -> tuple[Region, np.ndarray]:
        """The one region that all addresses fall into, and the offsets."""
        low = addresses.min()
        index = int(np.searchsorted(self.bases, low, side="right")) - 1
        region = self.regions[index] if index >= 0 else None
        offsets = addresses.astype(np.int64) - (region.base if region else 0)
        if region is None or offsets.min() < 0 or offsets.max() + size > region.size:
            name = region.name if region else "nothing"
            raise FaultError(f"global address {int(offsets.min())}..{int(offsets.max()) + size} relative to {name}, "
                             f"which has {region.size if region else 0} bytes")  # fmt: skip
        if self.pdl and not w.waited and not region.early:
            raise FaultError(f"{region.name} is touched before griddepcontrol.wait")
        return region, offsets

    def place(self, address: int) -> tuple[Cta, int]:
        """The CTA whose shared memory an address names, and the address inside it."""
        rank = address >> RANK_SHIFT
        if rank >= len(self.ctas):
            raise FaultError(f"shared memory of rank {rank} in a cluster of {len(self.ctas)}")
        return self.ctas[rank], address & INSIDE

    def later(self, action: Callable[[], None]) -> None:
        """Something that happens at some time from now on."""
        self.pending.append(action)

    def barrier(self, cta: Cta, address: int) -> Barrier:
        """The mbarrier there."""
        if address not in cta.barriers:
            raise FaultError(f"no mbarrier at {address - DYNAMIC_SMEM} of CTA {cta.rank}")
        return cta.barriers[address]

    # Instructions.

    def execute(self, w: Warp, i: Instruction, mask: np.ndarray) -> None:
        """One instruction of the lanes in ``mask``."""
        name = "_".join(part.partition("::")[0] for part in i.parts[:2])
        handler = getattr(self, f"_{name}", None) or getattr(self, f"_{i.parts[0]}", None)
        if handler is None:
            raise UnknownInstructionError(str(i))
        handler(w, i, mask)

    def _ld(self, w: Warp, i: Instruction, mask: np.ndarray) -> None:
        targets = i.operands[0] if isinstance(i.operands[0], tuple) else (i.operands[0],)
        bits = type_of(i.parts)[1]
        if "param" in i.parts:
            base, _, offset = i.operands[1][1].partition("+")
            raw = self.arguments[self.names.index(base)]
            at = int(offset or 0)
            for n, target in enumerate(targets):
                word = int.from_bytes(raw[at + n * bits // 8 : at + (n + 1) * bits // 8], "little")
                w.set(target, w.value(str(word), bits), mask)
            return
        addresses = w.address(i.operands[1], 32 if self._is_shared(i) else 64)
        for n, target in enumerate(targets):
            out = np.zeros((1, WARP), np.dtype(f"u{max(bits // 8, 2)}"))
            out[mask] = self._load(w, i, addresses[mask] + n * bits // 8, bits)
            w.set(target, out, mask)

    @staticmethod
    def _is_shared(i: Instruction) -> bool:
        return any(p.startswith("shared") for p in i.parts)

    def _load(self, w: Warp, i: Instruction, addresses: np.ndarray, bits: int) -> np.ndarray:
        size = bits // 8
        if not self._is_shared(i):
            region, offsets = self.touch(w, addresses, size)
            return region.load(offsets, bits)
        cta, _ = self.place(int(addresses[0]))
        offsets = cta.offsets(addresses, size)
        if cta.writing[offsets // GRANULE].any():
            raise FaultError(f"shared memory at {offsets.min()} is read while a copy writes it")
        return cta.memory[offsets[:, None] + np.arange(size)].view(f"u{size}")[:, 0]

    def _st(self, w: Warp, i: Instruction, mask: np.ndarray) -> None:
        bits = type_of(i.parts)[1]
        size = bits // 8
        values = i.operands[1] if isinstance(i.operands[1], tuple) else (i.operands[1],)
        shared = self._is_shared(i)
        addresses = w.address(i.operands[0], 32 if shared else 64)[mask]
        if not shared:
            region, offsets = self.touch(w, addresses, size * len(values))
            region.stores.append((w.cta.rank, w.number, offsets, size * len(values), i.parts[0]))
            return
        offsets = w.cta.offsets(addresses, size * len(values))
        if w.cta.writing[offsets // GRANULE].any():
            raise FaultError(f"shared memory at {offsets.min()} is stored to while a copy writes it")
        for n, value in enumerate(values):
            raw = w.value(value, bits)[mask].astype(f"u{size}")
            w.cta.memory[offsets[:, None] + n * size + np.arange(size)] = raw[:, None].view(np.uint8).reshape(-1, size)

    _red = _st

    def _st_async(self, w: Warp, i: Instruction, mask: np.ndarray) -> None:
        size = type_of(i.parts)[1] // 8
        targets, barriers = (w.address(i.operands[n], 32)[mask] for n in (0, 2))
        for target, bar in zip(targets, barriers, strict=True):
            cta, at = self.place(int(target))
            other, bar_at = self.place(int(bar))
            if cta is not other:
                raise FaultError("st.async and its mbarrier are in different CTAs")
            cta.offsets(np.array([at]), size)
            self.later(lambda cta=cta, at=bar_at: self.barrier(cta, at).transact(-size))
