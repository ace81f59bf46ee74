"""Blackwell's tensor cores: operands through descriptors, sums in tensor memory, loads from it.

Source: PTX ISA, "Tensor Memory", data path layouts A (M 256 in a pair), D (M 128) and F (M 64), and the shapes of
tcgen05.ld.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import FaultError, UnknownInstructionError
from ..ptx import Instruction
from ..registers import WARP
from ..shared import INSIDE, TMEM_COLUMNS, Cta
from .block_scales import scales
from .descriptors import Matrix, ScaledShape, Shape
from .fp8 import BLACKWELL, multiply
from .table import operation
from .wgmma import POISON, fragment, operand_bytes

if TYPE_CHECKING:
    from ..machine import CtaCluster
    from ..warp import Warp


@operation("tcgen05.fence")
def fence(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """tcgen05.fence: order the tensor memory accesses of threads that meet at a barrier."""
    if "after_thread_sync" in i.opcode:
        w.is_ordered_after = True
    else:
        w.is_ordered_before = True


@operation("tcgen05.relinquish_alloc_permit")
def relinquish(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """tcgen05.relinquish_alloc_permit: forbid later allocations in this CTA."""
    w.cta.has_permit = False


@operation("tcgen05.alloc")
def allocate(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """tcgen05.alloc: reserve columns of tensor memory and store the first one's number in shared memory."""
    columns = w.one(i.operands[1], 32, mask)
    first = sum(w.cta.allocated.values())
    if columns < 32 or columns & (columns - 1) or first + columns > TMEM_COLUMNS or not w.cta.has_permit:
        raise FaultError(f"{columns} tensor memory columns are allocated after {first}")
    w.cta.allocated[first] = columns
    offset = int(w.cta.offsets(w.address(i.operands[0], 32)[mask], 4)[0])
    w.cta.memory[offset : offset + 4] = np.frombuffer(first.to_bytes(4, "little"), np.uint8)


@operation("tcgen05.dealloc")
def free(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """tcgen05.dealloc: free columns."""
    first, columns = (w.one(o, 32, mask) for o in i.operands)
    if w.cta.allocated.pop(first, None) != columns:
        raise FaultError(f"{columns} tensor memory columns at {first} are freed, which were not allocated so")
    if w.cta.accumulating.any():
        raise FaultError("tensor memory is freed while an MMA writes it")


def _ordered_after(w: Warp) -> None:
    """Check that a fence stands between the barrier that signalled other threads' accesses and this one."""
    if not w.is_ordered_after:
        raise FaultError(f"warp {w.number} has waited, but there is no tcgen05.fence::after_thread_sync")


@operation("tcgen05.mma")
def mma(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """kind::f8f6f4 or mxf8f6f4 of one CTA or a pair: D rows over the CTAs, columns of B over them too."""
    if mask.sum() != 1:
        raise FaultError(f"{mask.sum()} lanes issue an MMA")
    if "f8f6f4" not in i.opcode or "sp" in i.parts or "ws" in i.parts:
        raise UnknownInstructionError(str(i))
    _ordered_after(w)
    pair = m.group(w, i.opcode)
    if pair[0] is not w.cta:
        raise FaultError("the second CTA of a pair issues an MMA")
    scaled = "block_scale" in i.parts
    shape = (ScaledShape if scaled else Shape).decode(w.one(i.operands[3], 32, mask))
    if (shape.m, len(pair)) not in ((128, 1), (256, 2), *([] if scaled else [(64, 1)])):
        raise UnknownInstructionError(f"an MMA of {shape.m} rows in {len(pair)} CTAs")
    for operand in i.operands[4] if isinstance(i.operands[4], tuple) and not scaled else ():
        if w.one(operand, 32, mask):
            raise UnknownInstructionError("an MMA that leaves lanes of its output out")
    first = w.one(i.operands[0], 32, mask) & 0xFFFF
    accumulates = bool(w.value(i.operands[-1], 1)[mask][0])
    a, b = (Matrix.decode(w.one(o, 64, mask), True) for o in i.operands[1:3])
    reader: list[tuple[Cta, np.ndarray]] = []
    rows, share = shape.m // len(pair), shape.n // len(pair)
    right = np.concatenate([operand_bytes(w, cta, b, share, reader) for cta in pair])
    lanes = _lanes(rows)
    for cta in pair:
        left = operand_bytes(w, cta, a, rows, reader)
        columns = slice(first, first + shape.n)
        _take(m, w, cta, columns, accumulates)
        place = cta.tensor_memory[:, columns]
        old = place[lanes].view(np.float32) if accumulates else np.zeros((rows, shape.n), np.float32)
        operands = np.ascontiguousarray(left), right, np.ascontiguousarray(old)
        factors = _factors(w, cta, i, mask, shape, rows) if isinstance(shape, ScaledShape) else ()
        place[lanes] = multiply(*operands, *BLACKWELL, *factors).view(np.uint32)
        w.accumulators.append((cta, columns))
    w.groups[-1] += [("read", *r) for r in reader]


def _factors(
    w: Warp, cta: Cta, i: Instruction, mask: np.ndarray, shape: ScaledShape, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Biased exponents of a CTA's rows of A, and of all columns of B, which both CTAs of a pair hold."""
    if not {"block32", "scale_vec::1X"} & set(i.parts):
        raise UnknownInstructionError(str(i))
    a, b = (w.one(o, 32, mask) for o in i.operands[4:6])
    return scales(w, cta, a, shape.a_id, rows), scales(w, cta, b, shape.b_id, shape.n)


def _lanes(rows: int) -> np.ndarray:
    """Lanes that hold the rows of a CTA: all, or of 64 rows the first 16 of every 32."""
    row = np.arange(rows)
    return row if rows == 128 else row // 16 * 32 + row % 16


def _take(m: CtaCluster, w: Warp, cta: Cta, columns: slice, accumulates: bool) -> None:
    """Columns that an MMA writes must be allocated, and their old sums drained by warps that this one knows of."""
    first, last = columns.start, columns.stop
    if not any(a <= first and last <= a + c for a, c in cta.allocated.items()):
        raise FaultError(f"an MMA writes columns {first}..{last}, allocated are {cta.allocated}")
    if not accumulates:
        for column in range(first, last):
            late = [index for index, stamp in cta.drains[column].items() if w.clock[index] < stamp]
            if late or (cta.commits[column] is not None and not cta.drains[column]):
                who = [str(m.warps[index]) for index in late] or "nobody has loaded it"
                raise FaultError(f"column {column} of CTA {cta.block} is overwritten before it is drained: {who}")
            cta.drains[column] = {}
            cta.commits[column] = None
    elif any(cta.drains[column] for column in range(first, last)):
        raise FaultError(f"an MMA adds to columns {first}..{last} of CTA {cta.block}, which were handed over")
    else:
        cta.commits[first:last] = [None] * (last - first)
    cta.accumulating[columns] += 1


@operation("tcgen05.commit")
def commit(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """tcgen05.commit: an arrival on barriers once the MMAs so far are done."""
    if mask.sum() != 1:
        raise FaultError(f"{mask.sum()} lanes commit")
    bar = w.one(i.operands[0], 32, mask)
    ranks = [m.place(bar)[0].rank]
    if "multicast::cluster" in i.opcode:
        bits = w.one(i.operands[1], 16, mask)
        if not bits or bits >> len(m.ctas):
            raise FaultError(f"a commit to {bits:#b} in a cluster of {len(m.ctas)}")
        ranks = [r for r in range(len(m.ctas)) if bits >> r & 1]
    parts, columns, scaling = w.groups.pop(), w.accumulators, w.scaling
    w.groups.append([])
    w.accumulators, w.scaling = [], []
    clock = m.released(w)

    def done() -> None:
        for _, cta, part in parts:
            cta.reading[part] -= 1
        for cta, part in scaling:
            cta.scaling[part] -= 1
        for cta, part in columns:
            cta.accumulating[part] -= 1
            phase = m.barrier(cta, bar & INSIDE).phase if cta.rank in ranks else -1
            for column in range(part.start, part.stop):
                cta.commits[column] = (cta.rank, bar & INSIDE, phase)
        for rank in ranks:
            barrier = m.barrier(m.ctas[rank], bar & INSIDE)
            np.maximum(barrier.clock, clock, out=barrier.clock)
            barrier.arrive()

    w.finishing.append(done)
    m.later(lambda: w.finishing.pop(0)())


@operation("tcgen05.ld")
def load(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """tcgen05.ld: load registers, which hold poison until ``tcgen05.wait::ld``."""
    shape, times = i.parts[-3], int(i.parts[-2][1:])
    if shape not in _LOADS or not mask.all():
        raise UnknownInstructionError(str(i))
    _ordered_after(w)
    width, height = _LOADS[shape]
    address = w.one(i.operands[1], 32, mask)
    first, lane, columns = address & 0xFFFF, address >> 16, width * times
    if lane // 32 != w.number % 4 or lane % height:
        raise FaultError(f"warp {w.number} loads {height} lanes from lane {lane} of tensor memory")
    if first + columns > TMEM_COLUMNS:
        raise FaultError(f"columns {first}..{first + columns} of {TMEM_COLUMNS} are loaded")
    if w.cta.accumulating[first : first + columns].any():
        raise FaultError(f"columns {first}..{first + columns} are loaded while an MMA writes them")
    for column in range(first, first + columns):
        _drain(w, column)
    values = w.cta.tensor_memory[lane : lane + height, first : first + columns]
    if shape == "32x32b":
        out = np.ascontiguousarray(values.T)
    elif shape == "16x256b":
        out = fragment(values)
    else:
        out = _narrow(values)
    targets = i.operands[0] if isinstance(i.operands[0], tuple) else (i.operands[0],)
    registers = np.array([w.program.registers.names[t][1] for t in targets])
    if len(registers) != len(out):
        raise FaultError(f"{i.opcode} fills {len(out)} registers, {len(registers)} are named")
    w.rows["r"][registers] = POISON
    w.is_ordered_before = False
    w.loads.append((registers, out))


_LOADS = {"32x32b": (1, 32), "16x128b": (4, 16), "16x256b": (8, 16)}
"""Shape -> columns and lanes of one repetition."""


def _narrow(values: np.ndarray) -> np.ndarray:
    """16x128b: registers [N / 2, 32] of 16 rows [16, N]."""
    e, lane = np.arange(values.shape[1] // 2)[:, None], np.arange(WARP)[None, :]
    return values[lane // 4 + 8 * (e % 2), 4 * (e // 2) + lane % 4]


def _drain(w: Warp, column: int) -> None:
    """Note that a warp loads a column, and check that it knows the column to be complete."""
    told = w.cta.commits[column]
    if told is None:
        raise FaultError(f"column {column} has nothing new for warp {w.number}")
    rank, address, phase = told
    if phase >= 0 and w.waits[rank, address] <= phase:
        raise FaultError(f"warp {w.number} loads column {column} without having waited for its MMAs")
    w.cta.drains[column][w.index] = int(w.clock[w.index])


@operation("tcgen05.wait")
def wait(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """tcgen05.wait::ld: give the loaded registers their values."""
    if "ld" not in i.opcode:
        raise UnknownInstructionError(str(i))
    for registers, values in w.loads:
        w.rows["r"][registers] = values
    w.loads.clear()
