"""Scales of Blackwell's block-scaled MMAs: copied from shared to tensor memory, one a row and column of an MMA.

Source: PTX ISA, tcgen05.cp with shape .32x128b.warpx4; "Block Scaling" of tcgen05.mma, "Layout of the Scale Factor A
Matrix for scale_vec::1X": rows of M or N go along 32 lanes, then along the 32-bit columns; the scale id is the byte
inside the column; every quarter of the lanes has them all. UE8M0 is 2^(byte - 127), 255 is NaN (OCP MX).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import FaultError, UnknownInstructionError
from ..ptx import Instruction
from ..registers import WARP
from ..shared import TMEM_COLUMNS, TMEM_LANES, Cta
from .descriptors import Matrix
from .table import operation
from .wgmma import operand_bytes

if TYPE_CHECKING:
    from ..machine import CtaCluster
    from ..warp import Warp

COPIED_COLUMNS = 4


@operation("tcgen05.cp")
def copy(m: CtaCluster, w: Warp, i: Instruction, mask: np.ndarray) -> None:
    """tcgen05.cp of 32 lanes x 128 bits into every quarter of the lanes; MMAs issued behind it find them there."""
    if mask.sum() != 1:
        raise FaultError(f"{mask.sum()} lanes issue a copy to tensor memory")
    if i.parts[-2:] != ("32x128b", "warpx4"):
        raise UnknownInstructionError(str(i))
    if not w.is_ordered_after:
        raise FaultError(f"warp {w.number} has waited, but there is no tcgen05.fence::after_thread_sync")
    address = w.one(i.operands[0], 32, mask)
    first = address & 0xFFFF
    matrix = Matrix.decode(w.one(i.operands[1], 64, mask), True)
    if matrix.swizzle or address >> 16:
        raise UnknownInstructionError(f"a copy with swizzle or to lane {address >> 16}")
    reader: list[tuple[Cta, np.ndarray]] = []
    for cta in m.group(w, i.opcode):
        _check_place(cta, first, COPIED_COLUMNS, "are copied to")
        columns = slice(first, first + COPIED_COLUMNS)
        if cta.scaling[columns].any():
            raise FaultError(
                f"columns {first} and on of CTA {cta.block} are overwritten while an MMA takes scales there"
            )
        # 16 of the 32 bytes that a row of an operand has.
        words = np.ascontiguousarray(operand_bytes(w, cta, matrix, WARP, reader, COPIED_COLUMNS * 4)).view(np.uint32)
        cta.tensor_memory[:, columns] = np.tile(words, (TMEM_LANES // WARP, 1))
    w.groups[-1] += [("read", *r) for r in reader]


def scales(w: Warp, cta: Cta, address: int, byte: int, rows: int) -> np.ndarray:
    """Biased exponents [rows] that an MMA takes from tensor memory; they are in use until its commit.

    Raises:
        FaultError: The columns are not the CTA's own, or the quarters of the lanes differ.
    """
    first, columns = address & 0xFFFF, -(-rows // WARP)
    # CUTLASS writes the scale id into the two highest bits too.
    if address >> 16 & 0x3FFF:
        raise FaultError(f"scales from lane {address >> 16} of tensor memory")
    _check_place(cta, first, columns, "give scales")
    part = slice(first, first + columns)
    words = cta.tensor_memory[:, part].reshape(TMEM_LANES // WARP, WARP, columns)
    found = (words >> np.uint32(8 * byte) & np.uint32(255)).astype(np.int32)
    if (found != found[0]).any():
        raise FaultError(f"the scales in columns {first} and on are not the same in every quarter of the lanes")
    cta.scaling[part] += 1
    w.scaling.append((cta, part))
    return found[0].T.reshape(-1)[:rows]


def _check_place(cta: Cta, first: int, columns: int, what: str) -> None:
    last = first + columns
    if last > TMEM_COLUMNS or not any(a <= first and last <= a + c for a, c in cta.allocated.items()):
        raise FaultError(f"columns {first}..{last} of tensor memory {what}, allocated are {cta.allocated}")
    if cta.accumulating[first:last].any():
        raise FaultError(f"columns {first}..{last} of tensor memory {what}, which an MMA writes")
