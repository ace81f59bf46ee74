"""Barriers of threads, CTAs and clusters, mbarriers, fences, and programmatic launch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import Blocked, FaultError, UnknownInstructionError
from ..ptx import Instruction
from ..registers import WARP
from ..shared import INSIDE, Barrier
from .table import operation

if TYPE_CHECKING:
    from ..machine import CtaCluster
    from ..warp import Warp


# mbarriers.


@operation("mbarrier.init")
def init(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """mbarrier.init: create a barrier that expects a number of arrivals."""
    address = w.one(i.operands[0], 32, mask)
    w.cta.offsets(np.array([address]), 8)
    w.cta.barriers[address & INSIDE] = Barrier(w.one(i.operands[1], 32, mask), len(m.warps))


@operation("mbarrier.arrive")
def arrive(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """mbarrier.arrive, also at another CTA's barrier; with ``expect_tx`` it adds bytes to wait for."""
    if w.loads:
        raise FaultError("an arrival while a load from tensor memory is under way")
    if not w.is_ordered_before:
        raise FaultError("an arrival after loads from tensor memory without tcgen05.fence::before_thread_sync")
    place = next(o for o in i.operands if isinstance(o, tuple))
    rest = i.operands[i.operands.index(place) + 1 :]
    clock = m.released(w)
    for lane, address in zip(np.nonzero(mask)[0], w.address(place, 32)[mask], strict=True):
        cta, at = m.place(int(address))
        barrier = m.barrier(cta, at)
        np.maximum(barrier.clock, clock, out=barrier.clock)
        number = 1
        if "expect_tx" in i.parts:
            barrier.bytes += int(w.value(rest[0], 32)[lane])
        elif rest:
            number = int(w.value(rest[0], 32)[lane])
        barrier.arrive(number)
    m.note_change()


@operation("mbarrier.expect_tx")
def expect(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """mbarrier.expect_tx: add bytes that the current phase waits for."""
    for address, size in zip(w.address(i.operands[0], 32)[mask], w.value(i.operands[1], 32)[mask], strict=True):
        cta, at = m.place(int(address))
        m.barrier(cta, at).bytes += int(size)


@operation("mbarrier.try_wait", "mbarrier.test_wait")
def try_wait(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """mbarrier.try_wait: pass if the phase is complete, else block the warp."""
    if i.operands[0] == "_" or "parity" not in i.parts:
        raise UnknownInstructionError(str(i))
    addresses, parities = w.address(i.operands[1], 32)[mask], w.value(i.operands[2], 32)[mask]
    for address, parity in set(zip((addresses & INSIDE).tolist(), parities.tolist(), strict=True)):
        barrier = m.barrier(w.cta, address)
        if not barrier.passed(parity):
            raise Blocked
        w.waits[w.cta.rank, address] += 1
        w.is_ordered_after = False
        np.maximum(w.clock, barrier.clock, out=w.clock)
    w.set(i.operands[0], np.ones(WARP, np.bool_), mask)


# Barriers of threads.


def _meet(m: CtaCluster, w: Warp, key: Any, arrived: bool, clock: np.ndarray) -> None:
    """Merge a warp's vector clock with that of a barrier."""
    if arrived:
        np.maximum(clock, m.released(w), out=clock)
    else:
        np.maximum(w.clock, clock, out=w.clock)


@operation("bar")
def named(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """bar.sync, bar.arrive, bar.warp.sync."""
    if "warp" in i.parts:
        if not (mask == w.alive).all():
            raise FaultError("lanes part at bar.warp.sync")
        return
    number = w.one(i.operands[0], 32, mask)
    threads = w.one(i.operands[1], 32, mask) if len(i.operands) > 1 else w.cta.threads
    state, clock = w.cta.named[number], w.cta.clocks[number]
    if number in w.waiting:
        if state[1] == w.waiting[number]:
            raise Blocked
        del w.waiting[number]
        _meet(m, w, number, False, clock)
        return
    generation = state[1]
    _meet(m, w, number, True, clock)
    state[0] += WARP
    if state[0] > threads:
        raise FaultError(f"named barrier {number}: {state[0]} threads arrive, it takes {threads}")
    if state[0] == threads:
        state[0], state[1] = 0, generation + 1
        m.note_change()
        if "arrive" not in i.parts:
            _meet(m, w, number, False, clock)
    elif "arrive" not in i.parts:
        w.waiting[number] = generation
        raise Blocked


@operation("barrier")
def cluster(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """barrier.cluster.arrive and .wait; barrier.sync is bar.sync."""
    if "cluster" not in i.parts:
        named(m, w, i, mask)
    elif "arrive" in i.parts:
        w.waiting["cluster"] = m.cluster_generation
        _meet(m, w, "cluster", True, m.cluster_clock)
        m.cluster_arrived += 1
        if m.cluster_arrived == sum(bool(v.alive.any()) for v in m.warps):
            m.cluster_arrived = 0
            m.cluster_generation += 1
        m.note_change()
    else:
        if m.cluster_generation == w.waiting.get("cluster", m.cluster_generation):
            raise Blocked
        _meet(m, w, "cluster", False, m.cluster_clock)


# Fences and launches.


@operation("fence")
def fence(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """``fence.proxy.async`` makes the ordinary stores that the warp has seen visible to tensor cores and copies."""
    if "proxy" in i.parts:
        m.publish(w)


@operation("griddepcontrol")
def dependents(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """griddepcontrol: ``wait`` and ``launch_dependents``."""
    if "wait" in i.parts:
        w.waited = True
        m.has_waited = True
        return
    m.letting.add(w.cta.block)
    if not w.waited:
        m.memory.triggers_early = True
