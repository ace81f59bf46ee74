"""Asynchronous copies into shared memory: cp.async, bulk and tensor copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import FaultError, UnknownInstructionError
from ..ptx import Instruction
from ..registers import PARAMETER_RANGE, PARAMETERS
from ..shared import GRANULE, INSIDE, RANK_SHIFT, Cta
from .table import operation
from .tensor_maps import TensorMap

if TYPE_CHECKING:
    from ..machine import CtaCluster
    from ..warp import Warp


@operation("cp")
def copy(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """Dispatch the forms of cp.async to their handlers."""
    if "mbarrier" in i.parts:
        _arrive(m, w, i, mask)
    elif "bulk" in i.parts:
        (_tensor if "tensor" in i.parts else _bulk)(m, w, i, mask)
    elif "shared" in i.parts:
        _small(m, w, i, mask)
    else:
        raise UnknownInstructionError(str(i))


def _arrive(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """cp.async.mbarrier.arrive.noinc: an arrival that happens once the earlier copies are done."""
    addresses = w.address(i.operands[0], 32)[mask]
    copies, w.copying = w.copying, []
    clock = m.released(w)

    def done() -> None:
        for part, offsets, raw in copies:
            np.subtract.at(w.cta.writing, part, 1)
            w.cta.memory[offsets[:, None] + np.arange(raw.shape[1])] = raw
        for address in (addresses & INSIDE).tolist():
            barrier = m.barrier(w.cta, address)
            np.maximum(barrier.clock, clock, out=barrier.clock)
            barrier.arrive()

    # It also waits for what earlier arrivals of the warp wait for.
    w.finishing.append(done)
    m.later(lambda: w.finishing.pop(0)())


def _small(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """cp.async: 4, 8 or 16 bytes for each thread, zeros beyond the source's size."""
    size = int(i.operands[2])
    targets, sources = w.address(i.operands[0], 32)[mask], w.address(i.operands[1], 64)[mask]
    given = len(i.operands) > 3
    read = w.value(i.operands[3], 32)[mask].astype(np.int64) if given else np.full(targets.shape, size)
    if (targets % size).any():
        raise FaultError(f"cp.async of {size} bytes is not aligned")
    raw = np.zeros((len(targets), size), np.uint8)
    some = read > 0
    if some.any():
        region, offsets = m.memory.find(sources[some], size, w.waited or not m.pdl, writes=False)
        raw[some] = region.data[offsets[:, None] + np.arange(size)]
        raw[np.arange(size)[None, :] >= read[:, None]] = 0
    where = w.cta.offsets(targets, size)
    part = where // GRANULE
    if w.cta.reading[part].any():
        raise FaultError(f"cp.async overwrites {w.cta.named_place(int(targets.min()))}, which is still read")
    np.add.at(w.cta.writing, part, 1)
    w.cta.writer[part], w.cta.stamp[part] = w.index, w.clock[w.index]
    w.cta.told_rank[part] = -1  # several barriers may signal them
    w.copying.append((part, where, raw))


def _one_lane(i: Instruction, mask: np.ndarray) -> int:
    if mask.sum() != 1:
        raise FaultError(f"{mask.sum()} lanes issue {i.parts[0]}.{i.parts[2]}")
    return int(np.nonzero(mask)[0][0])


def _bulk(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """cp.async.bulk: copy a contiguous run of bytes."""
    _one_lane(i, mask)
    target, bar = (w.one(i.operands[n], 32, mask) for n in (0, 3))
    size = w.one(i.operands[2], 32, mask)
    source = w.address(i.operands[1], 64)[mask]
    if target % 16 or int(source[0]) % 16 or size % 16:
        raise FaultError(f"bulk copy of {size} bytes from {source[0]:#x} to {target} is not aligned to 16")
    region, offsets = m.memory.find(source, size, w.waited or not m.pdl, writes=False)
    raw = region.data[int(offsets[0]) : int(offsets[0]) + size].copy()
    addresses = (target & INSIDE) + np.arange(size, dtype=np.int64)
    _deliver(m, w.cta, addresses, raw, w.cta, bar & INSIDE)


def _tensor(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """cp.async.bulk.tensor: copy a box, or four gathered rows, to one or several CTAs."""
    lane = _one_lane(i, mask)
    target = int(w.address(i.operands[0], 32)[lane])
    slot = (int(w.value(i.operands[1][1], 64)[lane]) - PARAMETERS) // PARAMETER_RANGE
    if not 0 <= slot < len(m.launch.arguments) or len(m.launch.arguments[slot]) != 128:
        raise FaultError("a tensor copy by what is no tensor map")
    tensor = TensorMap.decode(m.launch.arguments[slot])
    at = tuple(int(w.value(c, 32)[lane].astype(np.int32)) for c in i.operands[1][2])
    bar = int(w.address(i.operands[2], 32)[lane])
    region, offset = m.memory.find(np.array([tensor.base], np.uint64), 1, w.waited or not m.pdl, writes=False)
    if "tile::gather4" in i.opcode:
        rows = tensor.picked(np.array(at[1:]))
    else:
        rows = tensor.rows(at)
    if target % 128 or (tensor.swizzle and tensor.box[0] > 16 << tensor.swizzle):
        raise FaultError(f"a box of {tensor.box} goes to {target} with a swizzle of {16 << tensor.swizzle} bytes")
    raw = tensor.content(region.data[int(offset[0]) :], rows, at[0])
    addresses = tensor.places(target & INSIDE, len(rows))
    for rank in _receivers(m, w, i, lane):
        # In a pair, bytes count on the barrier of the CTA of the pair that the barrier's address names.
        counts = rank & ~1 | (bar >> RANK_SHIFT) & 1 if "cta_group::2" in i.opcode else rank
        _deliver(m, m.ctas[rank], addresses.reshape(-1), raw.reshape(-1), m.ctas[counts], bar & INSIDE)


def _receivers(m: CtaCluster, w: Warp, i: Instruction, lane: int) -> list[int]:
    """The CTAs that receive a tensor copy."""
    if "multicast::cluster" not in i.opcode:
        return [w.cta.rank]
    bits = int(w.value(i.operands[3], 16)[lane])
    if not bits or bits >> len(m.ctas):
        raise FaultError(f"multicast to {bits:#b} in a cluster of {len(m.ctas)}")
    return [r for r in range(len(m.ctas)) if bits >> r & 1]


def _deliver(m: CtaCluster, cta: Cta, addresses: np.ndarray, raw: np.ndarray, counts: Cta, bar: int) -> None:
    """Queue the arrival of bytes in shared memory and on the barrier there."""
    low = int(addresses.min())
    part = cta.granules(low, int(addresses.max()) - low + 1)
    if cta.reading[part].any():
        raise FaultError(f"a copy overwrites {cta.named_place(low)}, which is read")
    if cta.writing[part].any():
        raise FaultError(f"two copies write {cta.named_place(low)}")
    cta.writing[part] += 1
    cta.writer[part] = -1
    offsets = cta.offsets(addresses, 1)

    def done() -> None:
        cta.writing[part] -= 1
        cta.memory[offsets] = raw
        barrier = m.barrier(counts, bar)
        cta.told(part, counts.rank, bar, barrier.phase)
        barrier.transact(-raw.size)

    m.later(done)
