"""A cluster of CTAs that execute a kernel: memory, mbarriers, asynchronous copies, tensor cores, a random scheduler.

What is checked while it runs: every phase of every barrier completes (else :class:`DeadlockError` says which warp
waits for what), no more arrivals than a phase has, all accesses inside their tensors and inside shared memory, nothing
is read from shared memory while a copy is still writing it and nothing overwritten while it is still read, ordinary
stores reach the tensor cores through a proxy fence, results of asynchronous work are poison until they are waited for,
and nothing that an earlier kernel writes is touched before ``griddepcontrol.wait``.
"""

from __future__ import annotations

import ctypes
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import Blocked, DeadlockError, FaultError, UnknownInstructionError
from .memory import GlobalMemory
from .program import Program
from .ptx import DYNAMIC_SMEM
from .registers import PARAMETER_RANGE, WARP
from .shared import INSIDE, RANK_SHIFT, Barrier, Cta
from .warp import Warp

TURNS = 400_000
"""Scheduler turns without a change (an arrival, an atomic, a warp's end) after which a run counts as endless."""

MOST_TURNS = 25 * TURNS
"""Turns after which it does in any case. A GEMM at public sizes takes more than TURNS a cluster."""


@dataclass(frozen=True)
class Launch:
    """One kernel launch.

    Args:
        kernel: Its name.
        arguments: Bytes of each parameter in order.
        grid: CTAs along x, y and z.
        threads: Threads of a CTA.
        cluster: CTAs of a cluster.
        smem: Bytes of dynamic shared memory.
        pdl: Launched programmatically: results of earlier kernels may be used only after ``griddepcontrol.wait``.
        fallback: CTAs of the smaller clusters that may take the place of one, 0 where none may.
    """

    kernel: str
    arguments: list[bytes]
    grid: tuple[int, int, int]
    threads: int
    cluster: int
    smem: int
    pdl: bool
    fallback: int = 0

    def clusters(self) -> list[tuple[int, int]]:
        """(first CTA, CTAs) of each cluster. Where smaller ones are allowed, every other place has those, from the
        first on: a launch then shows both."""
        found: list[tuple[int, int]] = []
        for first in range(0, self.ctas, self.cluster):
            size = self.fallback if self.fallback and first // self.cluster % 2 == 0 else self.cluster
            found += [(at, size) for at in range(first, first + self.cluster, size)]
        return found

    @property
    def ctas(self) -> int:
        """Of the whole grid; a CTA's number counts along x first."""
        return math.prod(self.grid)

    def raw_arguments(self) -> np.ndarray:
        """The parameters, each in a range of its own."""
        out = np.zeros(PARAMETER_RANGE * max(len(self.arguments), 1), np.uint8)
        for n, argument in enumerate(self.arguments):
            out[n * PARAMETER_RANGE : n * PARAMETER_RANGE + len(argument)] = np.frombuffer(argument, np.uint8)
        return out


class CtaCluster:
    """CTAs ``first .. first + size`` of a grid, executed together.

    Args:
        program: The kernel's.
        launch: Its launch.
        memory: Global memory.
        first: Block index of rank 0.
        size: CTAs of this cluster.
        seed: Of the order in which warps run and copies complete.
    """

    def __init__(self, program: Program, launch: Launch, memory: GlobalMemory, first: int, size: int, seed: int = 0):
        self.program, self.launch, self.memory = program, launch, memory
        self.parameters = launch.raw_arguments()
        self.random = random.Random(seed)
        self.pdl = launch.pdl
        self.version = 0
        self.has_waited = False
        """Whether a warp has executed griddepcontrol.wait."""
        self.letting: set[int] = set()
        """CTAs that have let the next kernel start."""
        self.pending: list[Callable[[], None]] = []
        self.cluster_arrived, self.cluster_generation = 0, 0
        self.cta_group = 0
        self.size, threads = size, launch.threads
        count = size * (threads // WARP)
        self.cluster_clock = np.zeros(count, np.int64)
        self.ctas = [Cta(first + rank, rank, threads, launch.smem, count) for rank in range(size)]
        address = int(ctypes.c_void_p(self.parameters.ctypes.data).value or 0)
        self.warps: list[Warp] = []
        for cta in self.ctas:
            for number in range(threads // WARP):
                special = self._special(cta, number)
                self.warps.append(Warp(program, cta, number, len(self.warps), special, address, count))
        self.left = list(self.warps)
        self._blocked: list[tuple[int, Warp]] = []

    def _special(self, cta: Cta, number: int) -> dict[str, Any]:
        launch, lanes = self.launch, np.arange(WARP, dtype=np.uint32) + WARP * number
        wide, high, deep = launch.grid
        return {
            "%tid.x": lanes, "%tid.y": 0, "%tid.z": 0, "%ntid.x": launch.threads, "%ntid.y": 1, "%ntid.z": 1,
            "%ctaid.x": cta.block % wide, "%ctaid.y": cta.block // wide % high,
            "%ctaid.z": cta.block // (wide * high), "%nctaid.x": wide, "%nctaid.y": high, "%nctaid.z": deep,
            "%cluster_ctarank": cta.rank, "%cluster_nctarank": self.size, "%cluster_nctaid.x": self.size,
            "%cluster_ctaid.x": cta.rank, "%clusterid.x": cta.block // self.size, "%is_explicit_cluster": 1,
            "%warpid": number,
        }  # fmt: skip

    # Running.

    def turn(self) -> bool:
        """Let a warp run for some steps, or complete some asynchronous work; False when neither is possible now."""
        if self._blocked and self._blocked[0][0] != self.version:
            self.left += [w for at, w in self._blocked]
            self._blocked.clear()
        if self.pending and (not self.left or self.random.random() < 0.3):
            for _ in range(self.random.randint(1, min(16, len(self.pending)))):
                self.pending.pop(self.random.randrange(len(self.pending)))()
            self.version += 1
            return True
        if not self.left:
            return False
        at = self.random.randrange(len(self.left))
        self._advance(at, self.random.randint(1, 100))
        return True

    def _advance(self, at: int, steps: int) -> None:
        warp = self.left[at]
        try:
            for _ in range(steps):
                if not warp.step(self):
                    self._drop(at)
                    self.version += 1
                    return
        except Blocked:
            self._drop(at)
            self._blocked.append((self.version, warp))
        except (UnknownInstructionError, FaultError) as error:
            raise type(error)(f"{warp} at {warp.instruction()}: {error}") from error

    def _drop(self, at: int) -> None:
        self.left[at] = self.left[-1]
        self.left.pop()

    @property
    def lets_next_start(self) -> bool:
        """Whether all CTAs have let the next kernel start, or have ended."""
        alive = {w.cta.block for w in [*self.left, *(w for _, w in self._blocked)]}
        return alive <= self.letting

    @property
    def is_done(self) -> bool:
        """Whether all warps have ended."""
        return not self.left and not self._blocked

    def finish(self) -> None:
        """Complete the remaining asynchronous work after the last warp, and check that nothing is left over.

        Raises:
            FaultError: Something is left that would break a later tile or CTA.
        """
        while self.pending:
            self.pending.pop()()
        for cta in self.ctas:
            if cta.allocated:
                raise FaultError(f"CTA {cta.block} ends with tensor memory {cta.allocated}")
            if cta.writing.any() or cta.reading.any() or cta.accumulating.any():
                raise FaultError(f"CTA {cta.block} ends while its shared memory is still written or read")
            for address, barrier in cta.barriers.items():
                self._check_barrier(cta, address, barrier)

    def _check_barrier(self, cta: Cta, address: int, barrier: Barrier) -> None:
        """Check that no barrier ends inside a phase: its arrivals would count for the next tile."""
        if barrier.bytes or barrier.pending != barrier.count:
            raise FaultError(f"the barrier at {cta.named_place(address)} ends inside a phase: {barrier}")
        for w in self.warps:
            waits = w.waits.get((cta.rank, address), barrier.phase)
            # A producer's first wait finds an empty stage; where it also waits for the end, it has one more.
            if waits != barrier.phase and not (w.number < 4 and waits == barrier.phase + 1):
                raise FaultError(
                    f"{w} waited {waits} times on {cta.named_place(address)}, which had {barrier.phase} phases"
                )

    def explain(self) -> str:
        """One line for each waiting warp: the instruction and the barrier that it waits at."""
        lines = []
        for w in [*self.left, *(w for _, w in self._blocked)]:
            i = w.program.steps[w.here].first
            text = f"{w} waits at line {i.line}, {i}"
            if i.parts[0] == "mbarrier":
                address = int(w.address(i.operands[1], 32).max()) & INSIDE
                parity = int(w.value(i.operands[2], 32).max())
                barrier = w.cta.barriers.get(address)
                text += f": barrier at {address - DYNAMIC_SMEM}, parity {parity}, {barrier}"
            lines.append(text)
        return "\n".join(lines)

    # For the instructions.

    def place(self, address: int) -> tuple[Cta, int]:
        """The CTA whose shared memory an address names, and the address inside it."""
        rank = address >> RANK_SHIFT
        if rank >= len(self.ctas):
            raise FaultError(f"shared memory of rank {rank} in a cluster of {len(self.ctas)}")
        return self.ctas[rank], address & INSIDE

    def group(self, w: Warp, opcode: str) -> list[Cta]:
        """The CTAs that a tcgen05 instruction works on.

        Raises:
            FaultError: An instruction before it has another ``.cta_group``, of which a kernel has one (PTX ISA).
        """
        number = 2 if "cta_group::2" in opcode else 1
        if self.cta_group not in (0, number):
            raise FaultError(f"cta_group::{number} in a kernel with cta_group::{self.cta_group}")
        self.cta_group = number
        return self.ctas[w.cta.rank & ~1 :][:2] if number == 2 else [w.cta]

    def barrier(self, cta: Cta, address: int) -> Barrier:
        """The mbarrier at an address.

        Raises:
            FaultError: There is none.
        """
        if address not in cta.barriers:
            raise FaultError(f"no mbarrier at {cta.named_place(address)}")
        return cta.barriers[address]

    def later(self, action: Callable[[], None]) -> None:
        """Queue an action that the scheduler performs at some later time."""
        self.pending.append(action)

    def note_change(self) -> None:
        """Let waiting warps try again."""
        self.version += 1

    def released(self, w: Warp) -> np.ndarray:
        """The warp's vector clock, for a waiter on what it releases now; its later work is not included."""
        seen = w.clock.copy()
        w.clock[w.index] += 1
        return seen

    def publish(self, w: Warp) -> None:
        """Make the ordinary stores that a warp has seen visible to the asynchronous proxy."""
        writer = w.cta.writer
        dirty = np.nonzero(writer >= 0)[0]
        seen = w.clock.copy()
        seen[w.index] = np.iinfo(np.int64).max
        known = dirty[w.cta.stamp[dirty] <= seen[writer[dirty]]]
        writer[known] = -1


def run(program: Program, launch: Launch, memory: GlobalMemory, seed: int = 0) -> None:
    """Execute a whole grid: cluster after cluster, or all at once where they wait for one another.

    Raises:
        DeadlockError, FaultError, UnknownInstructionError: See the module.
    """
    if program.waits_for_grid:
        clusters = _clusters(program, launch, memory, seed)
        _run(clusters, seed)
        has_waited = any(c.has_waited for c in clusters)
    else:
        has_waited = False
        for first, size in launch.clusters():
            cluster = CtaCluster(program, launch, memory, first, size, seed + first)
            _run([cluster], seed)
            has_waited |= cluster.has_waited
    if memory.must_wait and not has_waited:
        raise _nobody_waited(launch)


def run_beside(kernels: Sequence[tuple[Program, Launch]], memory: GlobalMemory, seed: int = 0) -> None:
    """Execute two grids at the same time: the second begins once every CTA of the first has let it, or has ended.

    What kernels before the first have written may be used by the second without waiting, since the first had waited.

    Raises:
        DeadlockError, FaultError, UnknownInstructionError: See the module.
    """
    first, second = (_clusters(program, launch, memory, seed) for program, launch in kernels)

    def begin() -> list[CtaCluster]:
        if memory.triggers_early and memory.running_writes:
            raise FaultError("the second kernel is let start before the kernels ahead of both were waited for")
        for w in (w for c in second for w in c.warps):
            w.waited = True
        return second

    _run(first, seed, begin)
    if kernels[1][1].pdl and not any(c.has_waited for c in second):
        raise _nobody_waited(kernels[1][1])


def _clusters(program: Program, launch: Launch, memory: GlobalMemory, seed: int) -> list[CtaCluster]:
    return [CtaCluster(program, launch, memory, first, size, seed + first) for first, size in launch.clusters()]


def _nobody_waited(launch: Launch) -> FaultError:
    return FaultError(
        f"all {launch.ctas} CTAs end without griddepcontrol.wait: whoever waits for this kernel would not have "
        "waited for the one that runs beside it"
    )


def _run(clusters: list[CtaCluster], seed: int, begin: Callable[[], list[CtaCluster]] | None = None) -> None:
    """Run until all have ended; ``begin`` gives those that join once the others let the next kernel start."""
    chance = random.Random(seed)
    left = list(clusters)
    quiet = 0
    for _ in range(MOST_TURNS):
        if begin is not None and all(c.lets_next_start for c in left):
            left, begin = [*left, *begin()], None
        if not left:
            return
        cluster = left[chance.randrange(len(left))]
        before = cluster.version
        if cluster.turn():
            quiet = quiet + 1 if cluster.version == before else 0
            if quiet > TURNS:
                break
        elif cluster.is_done:
            cluster.finish()
            left.remove(cluster)
        else:
            raise DeadlockError(cluster.explain())
    raise DeadlockError("no end\n" + left[0].explain())
