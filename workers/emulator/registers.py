"""The layout of a kernel's registers in a warp's memory, and the values of its other operands.

A warp has one block of bytes: the mask of active lanes, then 32 lanes of every register, sorted by class. Compiled
segments and the instructions in NumPy work on the same block.
"""

from __future__ import annotations

import re
import struct
from typing import Any

import numpy as np

from .errors import UnknownInstructionError
from .ptx import Instruction, Kernel

WARP = 32
BYTES = {"p": 1, "h": 2, "r": 4, "d": 8}
DTYPES = {"p": np.bool_, "h": np.uint16, "r": np.uint32, "d": np.uint64}
PARAMETERS = 0x1000_0000_0000
PARAMETER_RANGE = 4096
"""Generic addresses of the kernel's parameters: one range for each."""
POISON = 0xFF
"""Byte in all unwritten registers and memory: NaN as FP8, bfloat16 and float32, -1 as an integer."""
_SPECIAL = re.compile(r"%(tid|ntid|ctaid|nctaid|cluster_ctaid|cluster_nctaid|clusterid|nclusterid)\.[xyz]|%(laneid|"
                      r"warpid|cluster_ctarank|cluster_nctarank|is_explicit_cluster|lanemask_\w+|smid)")  # fmt: skip
SHARED = "%shared"
"""Stands for the address of the dynamic shared memory."""


class Registers:
    """Places of a kernel's registers.

    Args:
        kernel: The code.
    """

    def __init__(self, kernel: Kernel):
        self.kernel = kernel
        self.names: dict[str, tuple[str, int]] = {}
        self.counts = dict.fromkeys(BYTES, 0)
        self.parameters = {name: PARAMETERS + PARAMETER_RANGE * i for i, name in enumerate(kernel.parameters)}
        self._constants: dict[tuple[str, int], np.ndarray] = {}
        self._uses: dict[str, int] = {}
        for i in kernel.code:
            for name in _names(i):
                self.place(name)
        at = 2 * WARP
        self.starts = {}
        for letter in ("p", "h", "r", "d"):
            self.starts[letter] = at
            at += -(-self.counts[letter] * BYTES[letter] * WARP // 64) * 64
        self.size = at

    def letter(self, name: str) -> str | None:
        """Class of a register, None for anything else."""
        if name == SHARED or _SPECIAL.fullmatch(name):
            return "r"
        types = self.kernel.types
        return types.get(name) or types.get(name.rstrip("0123456789"))

    def place(self, name: str) -> tuple[str, int] | None:
        """(class, index) of a register, None for anything else."""
        if name.startswith("__dynamic_shmem__"):
            name = SHARED
        found = self.names.get(name)
        if found is None:
            letter = self.letter(name)
            if letter is None:
                return None
            found = self.names[name] = letter, self.counts[letter]
            self.counts[letter] += 1
        return found

    def offset(self, name: str) -> int:
        """Byte at which a register's lanes begin."""
        letter, index = self.names[SHARED if name.startswith("__dynamic_shmem__") else name]
        return self.starts[letter] + index * BYTES[letter] * WARP

    def number(self, operand: str) -> int:
        """Value of an operand that is no register.

        Raises:
            UnknownInstructionError: The operand is of no known form.
        """
        if re.fullmatch(r"-?\d+", operand):
            return int(operand)
        if re.fullmatch(r"-?0[xX][0-9a-fA-F]+U?", operand):
            return int(operand.rstrip("U"), 16)
        if re.fullmatch(r"0[fF][0-9a-fA-F]{8}|0[dD][0-9a-fA-F]{16}", operand):
            return int(operand[2:], 16)
        if operand in self.parameters:
            return self.parameters[operand]
        raise UnknownInstructionError(f"operand {operand!r}")

    def constant(self, operand: str, bits: int) -> np.ndarray:
        """The lanes of an operand that is no register, [32] unsigned."""
        found = self._constants.get((operand, bits))
        if found is None:
            dtype = np.dtype(np.bool_ if bits == 1 else f"u{bits // 8}")
            number = self.number(operand) % (1 << max(bits, 1))
            found = self._constants[operand, bits] = np.full(WARP, number, dtype)
        return found


def _names(i: Instruction) -> list[str]:
    """Everything in an instruction that may be a register."""
    found = [] if i.guard is None else [i.guard[0]]

    def walk(operand: Any) -> None:
        if isinstance(operand, tuple):
            for part in operand:
                walk(part)
        else:
            found.extend(re.split(r"[|+]", operand.lstrip("!")))

    for operand in i.operands:
        walk(operand)
    return [name for name in found if name]


def float_bits(value: float) -> int:
    """The bits of a float32."""
    return int(struct.unpack("<I", struct.pack("<f", value))[0])
