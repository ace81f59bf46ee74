"""Hopper's warpgroup MMAs: operands through descriptors, sums in the registers of four warps."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from ..errors import FaultError, UnknownInstructionError
from ..ptx import Instruction
from ..registers import WARP
from ..shared import GRANULE, Cta
from .descriptors import K_BYTES, Matrix
from .fp8 import HOPPER, multiply
from .table import operation

if TYPE_CHECKING:
    from ..machine import CtaCluster
    from ..warp import Warp

POISON = np.uint32(0xFFFFFFFF)
_LANE = np.arange(WARP)


def operand_bytes(
    w: Warp, cta: Cta, matrix: Matrix, rows: int, reader: list[tuple[Cta, np.ndarray]], width: int = K_BYTES
) -> np.ndarray:
    """Bytes [rows, ``width``] that an MMA reads; what it reads is added to ``reader``.

    Raises:
        FaultError: They are outside shared memory, a copy is under way or was not waited for, or there are stores that
            no proxy fence has published.
    """
    offsets = cta.offsets(matrix.addresses(rows)[:, :width], 1)
    part = np.unique(offsets[:, ::16] // GRANULE) if matrix.swizzle else np.unique(offsets // GRANULE)
    if cta.writing[part].any():
        raise FaultError(f"an MMA reads {cta.named_place(matrix.start)} while a copy writes it")
    if (cta.writer[part] >= 0).any():
        raise FaultError(f"an MMA reads {cta.named_place(matrix.start)}, which was stored to without a proxy fence")
    cta.check_waited(w.waits, part)
    cta.reading[part] += 1
    reader.append((cta, part))
    return cta.memory[offsets]


def fragment(values: np.ndarray) -> np.ndarray:
    """Registers [N / 2, 32 lanes] of the warp that holds 16 rows [16, N] of a sum."""
    n = values.shape[1]
    e = np.arange(n // 2)[:, None]
    rows = _LANE[None, :] // 4 + 8 * (e // 2 % 2)
    return values[rows, 8 * (e // 4) + 2 * (_LANE[None, :] % 4) + e % 2]


def rows_of(registers: np.ndarray) -> np.ndarray:
    """The 16 rows [16, N] out of a warp's registers [N / 2, 32]."""
    n = 2 * registers.shape[0]
    out = np.empty((16, n), registers.dtype)
    e = np.arange(n // 2)[:, None]
    rows = _LANE[None, :] // 4 + 8 * (e // 2 % 2)
    out[rows, 8 * (e // 4) + 2 * (_LANE[None, :] % 4) + e % 2] = registers
    return out


@operation("wgmma.fence")
def fence(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """wgmma.fence: order accesses to registers and shared memory.

    On Hopper that includes data copied by cp.async, on which kernels may rely there.
    """
    m.publish(w)


@operation("wgmma.commit_group")
def commit(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """wgmma.commit_group: close the group of MMAs."""
    w.groups.append([])


@operation("wgmma.wait_group")
def wait(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """wgmma.wait_group: write the sums of all but the last groups; their operands may then be overwritten."""
    keep = int(i.operands[0])
    while len(w.groups) > keep + 1:
        for kind, *what in w.groups.pop(0):
            if kind == "read":
                what[0].reading[what[1]] -= 1
    pending = {registers for group in w.groups for kind, registers, *_ in group if kind == "sum"}
    for registers in [r for r in w.sums if r not in pending]:
        w.rows["r"][list(registers)] = w.sums.pop(registers)


@operation("wgmma.mma_async")
def mma(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """One warp's 16 rows of m64nNk32; operands are read now, sums show at the wait."""
    found = re.fullmatch(r"m64n(\d+)k32", next(p for p in i.parts if p.startswith("m64")))
    if found is None or i.parts[-3:] != ("f32", "e4m3", "e4m3") or not mask.all():
        raise UnknownInstructionError(str(i))
    n = int(found[1])
    if [str(o) for o in i.operands[4:]] not in (["1", "1"], ["1", "1", "0", "0"]):
        raise UnknownInstructionError(f"{i.opcode} with {i.operands[4:]}")
    names = [w.program.registers.names[r] for r in i.operands[0]]
    registers = tuple(index for _, index in names)
    a, b = (Matrix.decode(w.one(o, 64, mask), False) for o in i.operands[1:3])
    reader: list[tuple[Cta, np.ndarray]] = []
    quarter = 16 * (w.number % 4)
    left = operand_bytes(w, w.cta, a, 64, reader)[quarter : quarter + 16]
    right = operand_bytes(w, w.cta, b, n, reader)
    w.groups[-1] += [("read", *r) for r in reader]
    if w.value(i.operands[3], 1)[mask].all():
        old = w.sums.get(registers)
        if old is None:
            _refuse_overlap(w, registers)
            old = w.rows["r"][list(registers)]
        sums = rows_of(old).view(np.float32)
    else:
        _refuse_overlap(w, registers)
        sums = np.zeros((16, n), np.float32)
    out = multiply(np.ascontiguousarray(left), np.ascontiguousarray(right), np.ascontiguousarray(sums), *HOPPER)
    w.sums[registers] = fragment(out.view(np.uint32))
    w.groups[-1].append(("sum", registers))
    w.rows["r"][list(registers)] = POISON


def _refuse_overlap(w: Warp, registers: tuple[int, ...]) -> None:
    """Refuse registers that another unfinished MMA writes too."""
    mine = set(registers)
    if any(r != registers and mine.intersection(r) for r in w.sums):
        raise FaultError("an MMA takes registers that another one still writes")
