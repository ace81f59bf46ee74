"""Warps: registers of 32 lanes, the position in the code, and unfinished asynchronous work."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import UnknownInstructionError
from .program import BRANCH, EVERYBODY, EXIT, SEGMENT, Program, ProgramStep
from .registers import DTYPES, POISON, SHARED, WARP

if TYPE_CHECKING:
    from .shared import Cta


class Warp:
    """A warp of a kernel.

    Args:
        program: The kernel's.
        cta: Its CTA.
        number: Inside the CTA.
        index: Inside the cluster.
        special: Values of special registers.
        parameters: Address of the bytes of the parameters, ``PARAMETER_RANGE`` for each.
        warps: Of the cluster.
    """

    def __init__(
        self, program: Program, cta: Cta, number: int, index: int, special: dict[str, Any], parameters: int, warps: int
    ):
        self.program, self.cta, self.number, self.index = program, cta, number, index
        registers = program.registers
        raw = np.full(registers.size + 64, POISON, np.uint8)
        skip = -raw.ctypes.data % 64
        self._block = raw[skip : skip + registers.size]
        self._address = self._block.ctypes.data
        self.rows: dict[str, np.ndarray] = {}
        for letter, start in registers.starts.items():
            count, dtype = registers.counts[letter], np.dtype(DTYPES[letter])
            part = self._block[start : start + count * WARP * dtype.itemsize]
            self.rows[letter] = part.view(dtype).reshape(count, WARP)
        self.rows["p"][:] = False
        self._mask = self._block[:WARP].view(np.bool_)
        self._mask[:] = True
        self._block[WARP : WARP + 8].view(np.uint64)[0] = parameters
        for name, value in {**special, "%laneid": np.arange(WARP), SHARED: cta.base}.items():
            if name in registers.names:
                self.rows["r"][registers.names[name][1]] = value
        self.alive = EVERYBODY
        self.here = 0
        self.together = True
        """All lanes are at ``here``; ``_pc`` counts only when they are not."""
        self._pc = np.zeros(WARP, np.int64)
        self.clock = np.zeros(warps, np.int64)
        self.clock[index] = 1
        """How far this warp has seen each warp of the cluster."""
        self.waited = False
        """Whether griddepcontrol.wait was executed."""
        self.waiting: dict[Any, int] = {}
        """Generations of barriers that this warp has arrived at and waits for."""
        self.waits: dict[tuple[int, int], int] = defaultdict(int)
        """Phases of mbarriers that this warp has seen complete."""
        self.copying: list[tuple[Any, ...]] = []
        """Unfinished cp.async copies that no arrival covers yet."""
        self.groups: list[list[tuple[Any, ...]]] = [[]]
        """Shared memory that MMAs read, by commit group; the last one is open."""
        self.accumulators: list[tuple[Any, ...]] = []
        """Tensor memory that MMAs write and no commit covers yet."""
        self.scaling: list[tuple[Any, ...]] = []
        """Tensor memory that MMAs take scales from and no commit covers yet."""
        self.finishing: list[Callable[[], None]] = []
        """Effects of this warp's commits and asynchronous arrivals, in the order in which they must happen."""
        self.loads: list[tuple[np.ndarray, np.ndarray]] = []
        """Registers of loads from tensor memory that were not waited for, and their values."""
        self.is_ordered_before = True
        """Whether a tcgen05 fence stands between the loads from tensor memory and what comes next."""
        self.is_ordered_after = True
        """Whether one stands between the last wait on an mbarrier and what comes next."""
        self.sums: dict[tuple[int, ...], np.ndarray] = {}
        """Accumulators of wgmma that were not waited for."""

    def __repr__(self) -> str:
        return f"CTA {self.cta.block} warp {self.number}"

    # Operands.

    def value(self, operand: str, bits: int) -> np.ndarray:
        """An operand as unsigned integers [32]."""
        place = self.program.registers.names.get(operand)
        if place is None:
            if operand.startswith("__dynamic_shmem__"):
                return self.value(SHARED, bits)
            return self.program.registers.constant(operand, bits)
        row = self.rows[place[0]][place[1]]
        if row.dtype.itemsize * 8 == bits or bits == 1:
            return row
        return row.astype(f"u{bits // 8}")

    def set(self, register: str, value: np.ndarray, mask: np.ndarray) -> None:
        """Write a register in the lanes of ``mask``."""
        if register == "_":
            return
        place = self.program.registers.names[register]
        row = self.rows[place[0]][place[1]]
        if mask is EVERYBODY:
            row[:] = value
        else:
            np.copyto(row, value, where=mask, casting="unsafe")

    def address(self, operand: tuple[str, ...], bits: int) -> np.ndarray:
        """[register + offset] as unsigned integers."""
        base, _, offset = operand[1].partition("+")
        out = self.value(base, bits)
        if not offset:
            return out
        return out + out.dtype.type(int(offset) % (1 << bits))

    # Control.

    def step(self, machine: Any) -> bool:
        """Do one step in the lanes that are furthest behind; False when all lanes have ended.

        Raises:
            Blocked: Nothing was done.
        """
        mask = self.alive
        if not self.together:
            self.here = int(self._pc[self.alive].min())
            mask = self.alive & (self._pc == self.here)
        step: ProgramStep = self.program.steps[self.here]
        if step.kind == SEGMENT:
            if not (self.together and mask is EVERYBODY):
                self._mask[:] = mask
                step.run(self._address)  # type: ignore[misc]
                self._mask[:] = True
            else:
                step.run(self._address)  # type: ignore[misc]
            self._go_on(mask)
            return True
        active = mask
        if step.guard is not None:
            flags = self.rows["p"][step.guard[0]]
            active = mask & (flags if step.guard[1] else ~flags)
            if (active == mask).all():
                active = mask
        if step.kind == BRANCH:
            self._branch(step.target, mask, active)
        elif step.kind == EXIT:
            self._go_on(mask)
            self.alive = self.alive & ~active
            self._meet()
            return bool(self.alive.any())
        else:
            if active is mask or active.any():
                step.handler(machine, self, step.first, active)  # type: ignore[misc]
            self._go_on(mask)
        return True

    def _go_on(self, mask: np.ndarray) -> None:
        if self.together:
            self.here += 1
        else:
            self._pc[mask] = self.here + 1
            self._meet()

    def _branch(self, target: int, mask: np.ndarray, active: np.ndarray) -> None:
        """The lanes of ``active`` go to the target, the others of ``mask`` to the next step."""
        if self.together:
            if active is mask:
                self.here = target
                return
            if not active.any():
                self.here += 1
                return
            self.together = False
            self._pc[:] = self.here
        self._pc[mask] = self.here + 1
        self._pc[active] = target
        self._meet()

    def _meet(self) -> None:
        if self.together:
            return
        where = self._pc[self.alive]
        if where.size and (where == where[0]).all():
            self.together, self.here = True, int(where[0])

    def instruction(self) -> str:
        """The instruction that comes next, for messages."""
        first = self.program.steps[self.here].first
        return f"line {first.line}, {first}"

    def one(self, operand: str | tuple[str, ...], bits: int, mask: np.ndarray) -> int:
        """The value of an operand or address that is the same in all active lanes.

        Raises:
            UnknownInstructionError: It differs between lanes.
        """
        values = (self.address(operand, bits) if isinstance(operand, tuple) else self.value(operand, bits))[mask]
        if values.size == 0 or (values != values[0]).any():
            raise UnknownInstructionError(f"{operand} differs between lanes")
        return int(values[0])
