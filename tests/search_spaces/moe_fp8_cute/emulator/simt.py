"""Warps that execute PTX: integer arithmetic, predicates, branches and exchanges between lanes, in NumPy.

Float arithmetic is left out (its results are zeros): which tile, stage, barrier or address comes next never depends on
it, and a kernel in which it did would be refused here. Registers hold 32 lanes for each of ``n`` warps that run side by
side; the lanes of a warp may part and meet again (the lowest program counter goes first).
"""

from __future__ import annotations

import re

import numpy as np

from . import arithmetic, lanes  # noqa: F401 - they fill the table of rules
from .ptx import Kernel
from .rules import UNSIGNED, WARP, UnknownInstructionError, nothing, rule_for

NOBODY = np.zeros((1, WARP), bool)


class Warps:
    """``n`` warps of one kernel at the same place in the code.

    Args:
        kernel: The code.
        special: Values of special registers (``%tid.x`` ...), each broadcast to [n, 32].
        machine: Called for what concerns memory, barriers and asynchronous copies; None in pure arithmetic.
    """

    def __init__(self, kernel: Kernel, special: dict[str, np.ndarray], machine=None, n: int = 1):
        self.kernel, self.machine, self.n = kernel, machine, n
        self.registers: dict[str, np.ndarray] = {}
        numbers = np.broadcast_to(np.arange(WARP, dtype=np.uint32), (n, WARP))
        self.special = {"%laneid": numbers}
        self.special |= {k: np.broadcast_to(np.asarray(v, np.uint32), (n, WARP)) for k, v in special.items()}
        self.constants: dict[tuple[str, int], np.ndarray] = {}
        self.everybody = np.ones((n, WARP), bool)
        self.alive = self.everybody
        self.pc = np.zeros((n, WARP), np.int64)
        self.here = 0
        self.together = True
        """All lanes are at ``here``; ``pc`` counts only when they are not."""

    # Operands.

    def value(self, operand: str, bits: int) -> np.ndarray:
        """An operand as unsigned integers [n, 32]."""
        found = self.registers.get(operand)
        if found is None:
            found = self.constants.get((operand, bits))
            if found is None:
                found = self.constants[operand, bits] = self._constant(operand, bits)
            return found
        dtype = UNSIGNED[bits]
        return found if found.dtype == dtype else found.astype(dtype)

    def _constant(self, operand: str, bits: int) -> np.ndarray:
        """Anything but a register that was written."""
        dtype = UNSIGNED[bits]
        if operand in self.special:
            return self.special[operand].astype(dtype)
        if re.fullmatch(r"-?\d+", operand):
            number = int(operand) % (1 << max(bits, 8))
        elif re.fullmatch(r"0[fF][0-9a-fA-F]{8}", operand):
            number = int(operand[2:], 16)
        elif operand.startswith("0x"):
            number = int(operand, 16)
        elif operand.startswith("__dynamic_shmem__"):
            number = self.machine.smem_address(self)
        elif operand in self.kernel.parameters:
            number = self.machine.parameter_address(operand)
        elif operand.startswith("%") or "@" in operand:
            number = 0  # the result of float arithmetic, or not written on this path
        else:
            raise UnknownInstructionError(f"operand {operand!r}")
        return np.full((self.n, WARP), number, dtype)

    def set(self, register: str, value: np.ndarray, mask: np.ndarray) -> None:
        """Write the lanes of ``mask``."""
        if register == "_":
            return
        if mask is self.everybody and value.shape == mask.shape:
            self.registers[register] = value
            return
        old = self.registers.get(register)
        old = np.zeros((), value.dtype) if old is None else old.astype(value.dtype, copy=False)
        self.registers[register] = np.where(mask, value, old)

    def address(self, operand: tuple, bits: int) -> np.ndarray:
        """[register + offset] as unsigned integers."""
        text = operand[1]
        base, _, offset = text.partition("+")
        out = self.value(base, bits)
        return out + UNSIGNED[bits](int(offset) % (1 << bits)) if offset else out

    # Control.

    def step(self) -> bool:
        """Execute one instruction in the lanes that are furthest behind; False when all lanes have ended.

        Raises:
            Blocked: Nothing was done.
        """
        mask = self.alive
        if not self.together:
            self.here = int(self.pc[self.alive].min())
            mask = self.alive & (self.pc == self.here)
        i = self.kernel.code[self.here]
        active = mask
        if i.guard is not None:
            flags = self.value(i.guard[0], 1)
            active = mask & (flags if i.guard[1] else ~flags)
            if active.all():
                active = mask
        if i.parts[0] == "bra":
            self._branch(self.kernel.labels[i.operands[0]], mask, active)
        elif i.parts[0] in ("ret", "exit"):
            self._branch(self.here + 1, mask, NOBODY)
            self.alive = self.alive & ~active
            return bool(self.alive.any())
        else:
            if active is mask or active.any():
                i.rule(self, i, active)
            self._branch(self.here + 1, mask, NOBODY)
        return True

    def _branch(self, target: int, mask: np.ndarray, active: np.ndarray) -> None:
        """The lanes of ``active`` go to the target, the others of ``mask`` to the next instruction."""
        if self.together:
            if active is NOBODY or not active.any():
                self.here += 1
                return
            if active is mask or (active == mask).all():
                self.here = target
                return
            self.together = False
            self.pc[:] = self.here
        self.pc[mask] = self.here + 1
        self.pc[np.broadcast_to(active, self.pc.shape)] = target
        where = self.pc[self.alive]
        if where.size and (where == where[0]).all():
            self.together, self.here = True, int(where[0])

    def run(self) -> None:
        """To the end, without anything that could block."""
        while self.step():
            pass


def prepared(kernel: Kernel) -> Kernel:
    """The kernel without what does nothing here, every other instruction with its rule.

    Raises:
        UnknownInstructionError: The kernel has an instruction that the emulator does not know.
    """
    positions, kept = [], []
    for i in kernel.code:
        positions.append(len(kept))
        if i.parts[0] not in ("bra", "ret", "exit"):
            i.rule = rule_for(i)
            if i.rule is nothing:
                continue
        kept.append(i)
    positions.append(len(kept))
    labels = {name: positions[at] for name, at in kernel.labels.items()}
    return Kernel(kernel.name, kept, labels, kernel.parameters)
