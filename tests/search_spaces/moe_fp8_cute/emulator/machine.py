"""A cluster of CTAs that execute a kernel: memory, mbarriers, asynchronous copies, and a random scheduler.

What is checked while it runs: every phase of every barrier completes (else :class:`DeadlockError` tells who waits for
what), no more arrivals than a phase has, all accesses inside their tensors and inside shared memory, nothing is read
from shared memory while a copy is still writing it and nothing overwritten while it is still read, and nothing that an
earlier kernel makes is touched before ``griddepcontrol.wait``. Global accesses and copies are logged.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .ptx import DYNAMIC_SMEM, Instruction, Kernel
from .simt import WARP, Blocked, UnknownInstructionError, Warps, prepared, type_of

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


class Cluster:
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

    # mbarriers.

    def _mbarrier_init(self, w: Warp, i: Instruction, mask: np.ndarray) -> None:
        address = int(w.address(i.operands[0], 32)[mask][0])
        w.cta.offsets(np.array([address]), 8)
        w.cta.barriers[address & INSIDE] = Barrier(int(w.value(i.operands[1], 32)[mask][0]))

    def _mbarrier_arrive(self, w: Warp, i: Instruction, mask: np.ndarray) -> None:
        if w.loading:
            raise FaultError("an arrival while a load from tensor memory is under way")
        place = next(o for o in i.operands if isinstance(o, tuple))
        rest = i.operands[i.operands.index(place) + 1 :]
        for lane, address in zip(np.nonzero(mask[0])[0], w.address(place, 32)[mask], strict=True):
            cta, at = self.place(int(address))
            barrier = self.barrier(cta, at)
            number = 1
            if "expect_tx" in i.parts:
                barrier.bytes += int(w.value(rest[0], 32)[0, lane])
            elif rest:
                number = int(w.value(rest[0], 32)[0, lane])
            barrier.arrive(number)
        self.version += 1

    def _mbarrier_expect_tx(self, w: Warp, i: Instruction, mask: np.ndarray) -> None:
        for address, size in zip(w.address(i.operands[0], 32)[mask], w.value(i.operands[1], 32)[mask], strict=True):
            cta, at = self.place(int(address))
            self.barrier(cta, at).bytes += int(size)

    def _mbarrier_try_wait(self, w: Warp, i: Instruction, mask: np.ndarray) -> None:
        addresses, parities = w.address(i.operands[1], 32)[mask], w.value(i.operands[2], 32)[mask]
        for address, parity in set(zip((addresses & INSIDE).tolist(), parities.tolist(), strict=True)):
            if not self.barrier(w.cta, address).passed(parity):
                raise Blocked
            w.waits[w.cta.rank, address] += 1
        w.set(i.operands[0], np.ones((1, WARP), bool), mask)

    _mbarrier_test_wait = _mbarrier_try_wait

    # Barriers of threads.

    def _bar(self, w: Warp, i: Instruction, mask: np.ndarray) -> None:
        if "warp" in i.parts:
            if not (mask == w.alive).all():
                raise FaultError("lanes part at bar.warp.sync")
            return
        number = int(w.value(i.operands[0], 32)[mask][0])
        threads = int(w.value(i.operands[1], 32)[mask][0]) if len(i.operands) > 1 else w.cta.threads
        state = w.cta.named[number]
        if number in w.waiting:
            if state[1] == w.waiting[number]:
                raise Blocked
            del w.waiting[number]
            return
        generation = state[1]
        state[0] += WARP
        if state[0] == threads:
            state[0], state[1] = 0, generation + 1
            self.version += 1
        elif state[0] > threads:
            raise FaultError(f"named barrier {number}: {state[0]} threads arrive, it takes {threads}")
        elif "arrive" not in i.parts:
            w.waiting[number] = generation
            raise Blocked

    def _barrier(self, w: Warp, i: Instruction, mask: np.ndarray) -> None:
        if "cluster" not in i.parts:
            self._bar(w, i, mask)
        elif "arrive" in i.parts:
            w.waiting["cluster"] = self.cluster_generation
            self.cluster_arrived += 1
            if self.cluster_arrived == sum(bool(v.alive.any()) for v in self.warps):
                self.cluster_arrived = 0
                self.cluster_generation += 1
            self.version += 1
        elif self.cluster_generation == w.waiting["cluster"]:
            raise Blocked

    # Asynchronous copies.

    def _cp_async(self, w: Warp, i: Instruction, mask: np.ndarray) -> None:
        if "mbarrier" in i.parts:
            addresses = w.address(i.operands[0], 32)[mask]
            ranges, w.copying = w.copying, []
            # It also waits for what earlier arrivals of the warp wait for.
            w.finishing.append(lambda: self._copied(w.cta, ranges, addresses))
            self.later(lambda: w.finishing.pop(0)())
        elif "bulk" in i.parts:
            (self._tensor_copy if "tensor" in i.parts else self._bulk_copy)(w, i, mask)
        elif "shared" in i.parts:
            self._small_copies(w, i, mask)
        else:
            raise UnknownInstructionError(str(i))

    def _small_copies(self, w: Warp, i: Instruction, mask: np.ndarray) -> None:
        """cp.async: each thread 4, 8 or 16 bytes, zeros beyond the source's size."""
        size = int(i.operands[2])
        targets, sources = w.address(i.operands[0], 32)[mask], w.address(i.operands[1], 64)[mask]
        read = w.value(i.operands[3], 32)[mask] if len(i.operands) > 3 else np.full(targets.shape, size)
        if (targets % size).any() or (sources[read > 0] % np.uint64(size)).any():
            raise FaultError(f"cp.async of {size} bytes is not aligned")
        region = None
        if (read > 0).any():
            region, offsets = self.touch(w, sources[read > 0], size)
        part = w.cta.offsets(targets, size) // GRANULE
        if w.cta.reading[part].any():
            raise FaultError(f"cp.async overwrites shared memory at {targets.min() - DYNAMIC_SMEM} that is still read")
        np.add.at(w.cta.writing, part, 1)
        w.copying.append(part)
        where = np.full(targets.shape, -1, np.int64)
        if region is not None:
            where[read > 0] = offsets
        self._log(w, "cp.async", region, where, size)
        if size == 16:
            self._fill_chunks(w.cta, targets, region, where)

    def _fill_chunks(self, cta: Cta, targets: np.ndarray, region: Region | None, where: np.ndarray) -> None:
        """Note rows that come in chunks; each must be where the 128-byte swizzle has it."""
        inside = targets.astype(np.int64) & INSIDE
        chunk = (inside >> 4 & 7) ^ (inside >> 7 & 7)
        read = where >= 0
        if (where[read] % LINE // 16 != chunk[read]).any():
            raise FaultError("a chunk of a row is not where the swizzle has it")
        lines = (inside - DYNAMIC_SMEM) // LINE
        cta.sources[lines] = region.name if region is not None else "zeros"
        pitch = self.pitches.get(region.name, 1) if region is not None else 1
        cta.rows[lines] = np.where(read, where // pitch, -1)
        cta.blocks[lines] = np.where(read, where % pitch // LINE, -1)

    def _copied(self, cta: Cta, ranges: list[np.ndarray], barriers: np.ndarray) -> None:
        for part in ranges:
            np.subtract.at(cta.writing, part, 1)
        for address in (barriers & INSIDE).tolist():
            self.barrier(cta, address).arrive()

    def _bulk_copy(self, w: Warp, i: Instruction, mask: np.ndarray) -> None:
        if mask.sum() != 1:
            raise FaultError(f"{mask.sum()} lanes issue a bulk copy")
        target, bar = (int(w.address(i.operands[n], 32)[mask][0]) for n in (0, 3))
        size = int(w.value(i.operands[2], 32)[mask][0])
        source = w.address(i.operands[1], 64)[mask]
        if target % 16 or int(source[0]) % 16 or size % 16:
            raise FaultError(f"bulk copy of {size} bytes from {source[0]:#x} to {target} is not aligned to 16")
        region, offsets = self.touch(w, source, size)
        self._log(w, "bulk", region, int(offsets[0]), size)
        self._arriving(w.cta, target & INSIDE, size, w.cta, bar & INSIDE)

    def _tensor_copy(self, w: Warp, i: Instruction, mask: np.ndarray) -> None:
        if mask.sum() != 1:
            raise FaultError(f"{mask.sum()} lanes issue a tensor copy")
        lane = int(np.nonzero(mask[0])[0][0])
        target = int(w.address(i.operands[0], 32)[0, lane])
        descriptor = self.descriptor(int(w.value(i.operands[1][1], 64)[0, lane]))
        at = tuple(int(w.value(c, 32)[0, lane].astype(np.int32)) for c in i.operands[1][2])
        bar = int(w.address(i.operands[2], 32)[0, lane])
        ctas = [w.cta.rank]
        if "multicast::cluster" in i.opcode:
            bits = int(w.value(i.operands[3], 16)[0, lane])
            ctas = [r for r in range(len(self.ctas)) if bits >> r & 1]
            if bits >> len(self.ctas):
                raise FaultError(f"multicast to {bits:#b} in a cluster of {len(self.ctas)}")
        region, _ = self.touch(w, np.array([descriptor.base], np.uint64), 1)
        size = descriptor.box[0] * 4 if "tile::gather4" in i.opcode else descriptor.bytes
        self._log(w, "tensor", region, at, size, ctas)
        rows = descriptor.rows(at) if size == descriptor.bytes else np.array(at[1:])
        if size != descriptor.bytes:
            rows = np.where((rows >= 0) & (rows < descriptor.extents[1]), rows, -1)
        for rank in ctas:
            self.ctas[rank].fill(target & INSIDE, region.name, rows, at[0] // LINE)
            # In a pair, bytes count on the barrier of the CTA of the pair that the barrier's address names.
            counts = rank & ~1 | (bar >> RANK_SHIFT) & 1 if "cta_group::2" in i.opcode else rank
            self._arriving(self.ctas[rank], target & INSIDE, size, self.ctas[counts], bar & INSIDE)

    def _log(self, w: Warp, kind: str, region: Region | None, at: Any, size: int, ctas: Sequence[int] = ()) -> None:
        name = None if region is None else region.name
        self.copies.append(Copy(w.cta.rank, w.number, kind, name, at, size, tuple(ctas) or (w.cta.rank,)))

    def _arriving(self, cta: Cta, target: int, size: int, counts: Cta, bar: int) -> None:
        """Bytes on their way into shared memory, and to the barrier there."""
        part = cta.granules(target, size)
        if cta.reading[part].any():
            raise FaultError(f"a copy overwrites {self.named(cta, target)}, which is read")
        if cta.writing[part].any():
            raise FaultError(f"two copies write {self.named(cta, target)}")
        cta.writing[part] += 1

        def done() -> None:
            cta.writing[part] -= 1
            self.barrier(counts, bar).transact(-size)

        self.later(done)

    def _mapa(self, w: Warp, i: Instruction, mask: np.ndarray) -> None:
        rank = w.value(i.operands[2], 32)
        if int(rank[mask].max()) >= len(self.ctas):
            raise FaultError(f"mapa to rank {int(rank[mask].max())} of {len(self.ctas)}")
        own = w.value(i.operands[1], 32) & np.uint32(INSIDE)
        w.set(i.operands[0], own | (rank << np.uint32(RANK_SHIFT)), mask)

    def _griddepcontrol(self, w: Warp, i: Instruction, mask: np.ndarray) -> None:
        if "wait" in i.parts:
            w.waited = True

    # tcgen05.

    def _tcgen05_fence(self, w: Warp, i: Instruction, mask: np.ndarray) -> None:
        """Order is the emulator's anyway."""

    def _tcgen05_relinquish_alloc_permit(self, w: Warp, i: Instruction, mask: np.ndarray) -> None:
        """Nothing is allocated after it here."""
        w.cta.has_permit = False

    def _tcgen05_alloc(self, w: Warp, i: Instruction, mask: np.ndarray) -> None:
        columns = int(w.value(i.operands[1], 32)[mask][0])
        first = sum(w.cta.allocated.values())
        if columns < 32 or columns & (columns - 1) or first + columns > 512 or not w.cta.has_permit:
            raise FaultError(f"{columns} tensor memory columns are allocated after {first}")
        w.cta.allocated[first] = columns
        offset = int(w.cta.offsets(w.address(i.operands[0], 32)[mask], 4)[0])
        w.cta.memory[offset : offset + 4] = np.frombuffer(first.to_bytes(4, "little"), np.uint8)

    def _tcgen05_dealloc(self, w: Warp, i: Instruction, mask: np.ndarray) -> None:
        first, columns = (int(w.value(o, 32)[mask][0]) for o in i.operands)
        if w.cta.allocated.pop(first, None) != columns:
            raise FaultError(f"{columns} tensor memory columns at {first} are freed, which were not allocated so")
        if w.cta.accumulating.any():
            raise FaultError("tensor memory is freed while an MMA writes it")

    def _pair(self, w: Warp, i: Instruction) -> list[Cta]:
        """The CTAs that an instruction of this group works on."""
        if "cta_group::2" not in i.opcode:
            return [w.cta]
        return self.ctas[w.cta.rank & ~1 :][:2]

    def _tcgen05_mma(self, w: Warp, i: Instruction, mask: np.ndarray) -> None:
        if mask.sum() != 1:
            raise FaultError(f"{mask.sum()} lanes issue an MMA")
        pair = self._pair(w, i)
        if pair[0] is not w.cta:
            raise FaultError("the second CTA of a pair issues an MMA")
        what = int(w.value(i.operands[3], 32)[mask][0])
        n, m = (what >> 17 & 63) * 8, (what >> 24 & 31) * 16
        first = int(w.address(i.operands[0], 32)[mask][0]) & 0xFFFF
        accumulates = bool(w.value(i.operands[-1], 1)[mask][0])
        starts = [(int(w.value(o, 64)[mask][0]) & 0x3FFF) << 4 for o in i.operands[1:3]]
        if starts[0] % LINE == 0:
            a, b = ([cta.lines(s, r // len(pair)) for cta in pair] for s, r in zip(starts, (m, n), strict=True))
            self.mmas.append(Mma(w.cta.rank, w.number, a, b))
        for cta in pair:
            if not any(a <= first and first + n <= a + c for a, c in cta.allocated.items()):
                raise FaultError(f"an MMA writes columns {first}..{first + n}, allocated are {cta.allocated}")
            for start, rows in zip(starts, (m // len(pair), n // len(pair)), strict=True):
                part = cta.granules(start & ~1023, rows * 128)
                if cta.writing[part].any():
                    raise FaultError(f"an MMA reads {self.named(cta, start)} while a copy writes it")
                cta.reading[part] += 1
                w.groups[-1].append((cta, part))
            self._accumulate(cta, slice(first, first + n), accumulates)
            w.accumulators.append((cta, slice(first, first + n)))

    def _accumulate(self, cta: Cta, columns: slice, accumulates: bool) -> None:
        """The first MMA of an accumulator needs the old one to be drained, by every promotion warp."""
        if not accumulates:
            for column in range(columns.start, columns.stop):
                if cta.is_filled[column] and len(cta.loads[column]) != self.promoters:
                    raise FaultError(f"column {column} of CTA {cta.rank} is overwritten; loaded by {cta.loads[column]}")
                cta.loads[column] = set()
            cta.is_filled[columns] = True
        cta.accumulating[columns] += 1

    def _tcgen05_commit(self, w: Warp, i: Instruction, mask: np.ndarray) -> None:
        if mask.sum() != 1:
            raise FaultError(f"{mask.sum()} lanes commit")
        bar = int(w.address(i.operands[0], 32)[mask][0])
        ctas = [self.place(bar)[0].rank]
        if "multicast::cluster" in i.opcode:
            bits = int(w.value(i.operands[1], 16)[mask][0])
            if not bits or bits >> len(self.ctas):
                raise FaultError(f"a commit to {bits:#b} in a cluster of {len(self.ctas)}")
            ctas = [r for r in range(len(self.ctas)) if bits >> r & 1]
        parts, columns = w.groups.pop(), w.accumulators
        w.groups.append([])
        w.accumulators = []

        def done() -> None:
            for cta, part in parts:
                cta.reading[part] -= 1
            for cta, part in columns:
                cta.accumulating[part] -= 1
            for rank in ctas:
                self.barrier(self.ctas[rank], bar & INSIDE).arrive()

        w.finishing.append(done)
        self.later(lambda: w.finishing.pop(0)())

    def _tcgen05_ld(self, w: Warp, i: Instruction, mask: np.ndarray) -> None:
        shape = next(p for p in i.parts if p.startswith("16x256b"))
        columns = 8 * int(i.parts[i.parts.index(shape) + 1][1:])
        address = int(w.address(i.operands[1], 32)[mask][0])
        first, lane = address & 0xFFFF, address >> 16
        if lane // 32 != w.number % 4 or lane % 16:
            raise FaultError(f"warp {w.number} loads from lane {lane} of tensor memory")
        if w.cta.accumulating[first : first + columns].any():
            raise FaultError(f"columns {first}..{first + columns} are loaded while an MMA writes them")
        for column in range(first, first + columns):
            if not w.cta.is_filled[column] or w.number in w.cta.loads[column]:
                raise FaultError(f"column {column} has nothing new for warp {w.number}")
            w.cta.loads[column].add(w.number)
        w.loading = True

    def _tcgen05_wait(self, w: Warp, i: Instruction, mask: np.ndarray) -> None:
        w.loading = False

    # wgmma.

    def _wgmma(self, w: Warp, i: Instruction, mask: np.ndarray) -> None:
        if "commit_group" in i.parts:
            w.groups.append([])
        elif "wait_group" in i.parts:
            keep = int(i.operands[0])
            while len(w.groups) > keep + 1:
                for cta, part in w.groups.pop(0):
                    cta.reading[part] -= 1
        elif "mma_async" in i.parts:
            n = int(next(p for p in i.parts if p.startswith("m64n"))[4:].split("k")[0])
            starts = [(int(w.value(o, 64)[mask][0]) & 0x3FFF) << 4 for o in i.operands[1:3]]
            if starts[0] % LINE == 0 and w.number % 4 == 0:
                a, b = ([w.cta.lines(s, r)] for s, r in zip(starts, (64, n), strict=True))
                self.mmas.append(Mma(w.cta.rank, w.number, a, b))
            for start, rows in zip(starts, (64, n), strict=True):
                part = w.cta.granules(start & ~1023, rows * 128)
                if w.cta.writing[part].any():
                    raise FaultError(f"wgmma reads shared memory at {start - DYNAMIC_SMEM} while a copy writes it")
                w.cta.reading[part] += 1
                w.groups[-1].append((w.cta, part))
