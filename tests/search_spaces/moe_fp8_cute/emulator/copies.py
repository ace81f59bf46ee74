"""Asynchronous copies into shared memory: cp.async, bulk and tensor copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .cta import Cta, Warp
from .memory import GRANULE, INSIDE, LINE, RANK_SHIFT, Copy, FaultError, Region
from .ptx import DYNAMIC_SMEM, Instruction
from .rules import UnknownInstructionError


class Copies:
    """What the instructions do to a cluster; part of :class:`machine.Cluster`."""

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
