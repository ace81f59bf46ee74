"""MMAs of both architectures, and Blackwell's tensor memory."""

from __future__ import annotations

import numpy as np

from .cta import Cta, Warp
from .memory import INSIDE, LINE, FaultError, Mma
from .ptx import DYNAMIC_SMEM, Instruction


class TensorCores:
    """What the instructions do to a cluster; part of :class:`machine.Cluster`."""

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
