"""Loads, stores, reductions and atomics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import FaultError, UnknownInstructionError
from ..native.segment import type_of
from ..ptx import Instruction
from ..registers import WARP
from ..shared import GRANULE, Cta
from .table import operation

if TYPE_CHECKING:
    from ..machine import CtaCluster
    from ..warp import Warp


def is_shared(i: Instruction) -> bool:
    """Whether an access goes to shared memory."""
    return any(p.startswith("shared") for p in i.parts)


def read_shared(w: Warp, cta: Cta, offsets: np.ndarray, size: int) -> np.ndarray:
    """Read bytes [n, size] by ordinary loads.

    Raises:
        FaultError: A copy is under way there, or was not waited for.
    """
    for at in range(0, size, GRANULE):
        part = (offsets + at) // GRANULE
        if cta.writing[part].any():
            raise FaultError(f"shared memory at {offsets.min()} is read while a copy writes it")
        cta.check_waited(w.waits, part)
    return cta.memory[offsets[:, None] + np.arange(size)]


def write_shared(w: Warp, cta: Cta, offsets: np.ndarray, raw: np.ndarray) -> None:
    """Write bytes [n, size] by ordinary stores.

    Raises:
        FaultError: A copy is under way there, or an MMA reads it.
    """
    size = raw.shape[1]
    for at in range(0, size, GRANULE):
        part = (offsets + at) // GRANULE
        if cta.writing[part].any():
            raise FaultError(f"shared memory at {offsets.min()} is stored to while a copy writes it")
        if cta.reading[part].any():
            raise FaultError(f"shared memory at {offsets.min()} is stored to while an MMA reads it")
        cta.writer[part], cta.stamp[part] = w.index, w.clock[w.index]
        cta.told_rank[part] = -1
    cta.memory[offsets[:, None] + np.arange(size)] = raw


@operation("ld")
def load(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """Load vectors of 1, 2 or 4 elements."""
    targets = i.operands[0] if isinstance(i.operands[0], tuple) else (i.operands[0],)
    size = type_of(i.parts)[1] // 8
    total = size * len(targets)
    addresses = w.address(i.operands[1], 32 if is_shared(i) else 64)[mask]
    if is_shared(i):
        cta, _ = m.place(int(addresses[0]))
        raw = read_shared(w, cta, cta.offsets(addresses, total), total)
    else:
        region, offsets = m.memory.find(addresses, total, w.waited or not m.pdl, writes=False)
        raw = region.data[offsets[:, None] + np.arange(total)]
    for n, target in enumerate(targets):
        out = np.zeros(WARP, f"u{max(size, 2)}")
        out[mask] = np.ascontiguousarray(raw[:, n * size : (n + 1) * size]).view(f"u{size}")[:, 0]
        w.set(target, out, mask)


def _given(w: Warp, operand: object, bits: int, mask: np.ndarray) -> np.ndarray:
    """The bytes [n, total] that a store writes."""
    values = operand if isinstance(operand, tuple) else (operand,)
    columns = [np.ascontiguousarray(w.value(v, max(bits, 16))[mask].astype(f"u{bits // 8}")) for v in values]
    return np.concatenate([c.view(np.uint8).reshape(len(c), -1) for c in columns], axis=1)


@operation("st")
def store(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """Store vectors of 1, 2 or 4 elements, with ``st.async`` into the cluster's shared memory."""
    if "async" in i.parts:
        _store_async(m, w, i, mask)
        return
    raw = _given(w, i.operands[1], type_of(i.parts)[1], mask)
    addresses = w.address(i.operands[0], 32 if is_shared(i) else 64)[mask]
    if is_shared(i):
        cta, _ = m.place(int(addresses[0]))
        write_shared(w, cta, cta.offsets(addresses, raw.shape[1]), raw)
        return
    region, offsets = m.memory.find(addresses, raw.shape[1], w.waited or not m.pdl, writes=True)
    region.data[offsets[:, None] + np.arange(raw.shape[1])] = raw
    if region.is_logged:
        region.stores.append((w.cta.block, w.number, offsets, raw.shape[1], "st"))


def _store_async(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    raw = _given(w, i.operands[1], type_of(i.parts)[1], mask)
    targets, barriers = (w.address(i.operands[n], 32)[mask] for n in (0, 2))
    clock = m.released(w)
    for target, bar, one in zip(targets, barriers, raw, strict=True):
        cta, _ = m.place(int(target))
        other, bar_at = m.place(int(bar))
        if cta is not other:
            raise FaultError("st.async and its mbarrier are in different CTAs")
        offset = cta.offsets(np.array([target]), one.size)

        def done(cta: Cta = cta, offset: np.ndarray = offset, one: np.ndarray = one, bar_at: int = bar_at) -> None:
            cta.memory[offset[0] : offset[0] + one.size] = one
            barrier = m.barrier(cta, bar_at)
            cta.told(offset // GRANULE, cta.rank, bar_at, barrier.phase)
            np.maximum(barrier.clock, clock, out=barrier.clock)
            barrier.transact(-one.size)

        m.later(done)


def bfloat16(values: np.ndarray) -> np.ndarray:
    """Upper halves of float32, rounded to nearest even."""
    bits = values.astype(np.float32).view(np.uint32)
    out = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(values), 0x7FFF, out).astype(np.uint16)


def _added(kind: str, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The sums of two vectors of one type."""
    with np.errstate(over="ignore", invalid="ignore"):
        if kind == "f32":
            return (old.view(np.float32) + new.view(np.float32)).view(np.uint32)
        if kind == "bf16x2":
            a, b = (v.view(np.uint16).astype(np.uint32) << 16 for v in (old, new))
            return bfloat16(a.view(np.float32) + b.view(np.float32)).view(np.uint32)
        if kind in ("u32", "s32", "u64", "s64"):
            return old + new
    raise UnknownInstructionError(f"an addition of {kind}")


@operation("red", "atom")
def reduce(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """Reductions and atomics (add, or, and, max, min); lanes with the same address take turns."""
    returns = i.parts[0] == "atom"
    place, given = i.operands[1:3] if returns else i.operands[:2]
    kind = i.parts[-1]
    size = type_of(i.parts)[1] // 8
    raw = _given(w, given, 8 * size, mask)
    addresses = w.address(place, 32 if is_shared(i) else 64)[mask]
    if is_shared(i):
        cta, _ = m.place(int(addresses[0]))
        offsets, data = cta.offsets(addresses, raw.shape[1]), cta.memory
    else:
        region, offsets = m.memory.find(addresses, raw.shape[1], w.waited or not m.pdl, writes=True)
        data = region.data
        if region.is_logged:
            region.stores.append((w.cta.block, w.number, offsets, raw.shape[1], "red"))
    span = np.arange(raw.shape[1])
    steps = [slice(None)] if len(np.unique(offsets)) == len(offsets) else [slice(n, n + 1) for n in range(len(offsets))]
    before = np.zeros(raw.shape, np.uint8)
    for step in steps:
        where = offsets[step][:, None] + span
        old = data[where]
        before[step] = old
        new = np.ascontiguousarray(raw[step])
        data[where] = _combined(i, kind, old.view(f"u{size}"), new.view(f"u{size}")).view(np.uint8).reshape(old.shape)
    if returns:
        out = np.zeros(WARP, f"u{size}")
        out[mask] = before.view(f"u{size}")[:, 0]
        w.set(i.operands[0], out, mask)
    if not is_shared(i):
        m.note_change()


def _combined(i: Instruction, kind: str, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The value that an atomic writes back."""
    if "add" in i.parts:
        return np.ascontiguousarray(_added(kind, old, new))
    if "or" in i.parts:
        return np.asarray(old | new)
    if "and" in i.parts:
        return np.asarray(old & new)
    if "exch" in i.parts:
        return new
    if ("max" in i.parts or "min" in i.parts) and kind in ("u32", "s32"):
        a, b = (v.view(np.int32) if kind == "s32" else v for v in (old, new))
        return np.asarray(np.maximum(a, b) if "max" in i.parts else np.minimum(a, b)).view(np.uint32)
    raise UnknownInstructionError(str(i))
