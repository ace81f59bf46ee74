"""Barriers of threads, CTAs and clusters, and mbarriers."""

from __future__ import annotations

import numpy as np

from .cta import Warp
from .memory import INSIDE, Barrier, FaultError
from .ptx import Instruction
from .rules import WARP, Blocked


class Barriers:
    """What the instructions do to a cluster; part of :class:`machine.Cluster`."""

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
