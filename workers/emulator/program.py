"""A kernel made ready to run: compiled segments, and between them instructions that touch memory, barriers or lanes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .errors import UnknownInstructionError
from .native.compiled import Compiled, Function
from .native.segment import Segment, is_native
from .ops.table import handler_for
from .ptx import Instruction, Kernel
from .registers import WARP, Registers, _names

LONGEST = 600
"""Most instructions of a segment; compile time grows faster than the length."""
SEGMENT, OPERATION, BRANCH, EXIT = range(4)
_NOTHING = {"prefetch", "nanosleep", "setmaxnreg", "membar", "createpolicy"}
"""Instructions without an effect on data or order."""


@dataclass(slots=True)
class ProgramStep:
    """One step of a warp: a compiled segment, or a single instruction.

    Args:
        kind: ``SEGMENT``, ``OPERATION``, ``BRANCH`` or ``EXIT``.
        first: Its (first) instruction, for messages.
        run: Function of a segment; takes the address of the warp's register block.
        handler: Function of an operation.
        target: Index of the step that a branch goes to.
        guard: (index of a predicate, wanted value) where there is one.
    """

    kind: int
    first: Instruction
    run: Function | None = None
    handler: Callable[..., None] | None = None
    target: int = -1
    guard: tuple[int, bool] | None = None


class Program:
    """Steps of a kernel.

    Args:
        kernel: The code.

    Raises:
        UnknownInstructionError: There is no rule for an instruction.
    """

    def __init__(self, kernel: Kernel):
        self.kernel = kernel
        self.registers = Registers(kernel)
        self.steps: list[ProgramStep] = []
        self._segments: list[Segment] = []
        self._units: Counter[str] = Counter()
        self._build()
        compiled = Compiled(self._segments, self._is_read_elsewhere)
        functions = iter(compiled.functions)
        for step in self.steps:
            if step.kind == SEGMENT:
                step.run = next(functions)
        self._compiled = compiled
        self.waits_for_grid = any(i.parts[:2] == ("ld", "acquire") for i in kernel.code)
        """Whether CTAs wait for one another through global memory."""

    def _build(self) -> None:
        targets = set(self.kernel.labels.values())
        begins: dict[int, int] = {}
        current: Segment | None = None
        length = 0
        for at, i in enumerate(self.kernel.code):
            if at in targets or length >= LONGEST:
                current = None
            begins[at] = len(self.steps) - (current is not None)
            if i.parts[0] in _NOTHING:
                continue
            if is_native(i):
                if current is None:
                    current, length = self._segment(i), 0
                self._translate(current, i)
                length += 1
                continue
            current = None
            self.steps.append(self._other(i))
            self._units.update(set(_names(i)))
        begins[len(self.kernel.code)] = len(self.steps)
        # A jump behind the last step ends the thread.
        self.steps.append(ProgramStep(EXIT, Instruction("exit", [])))
        for step in self.steps:
            if step.kind == BRANCH:
                step.target = begins[self.kernel.labels[step.first.operands[0]]]
        self._count_segments()

    def _segment(self, i: Instruction) -> Segment:
        segment = Segment(f"segment_{len(self._segments)}", self.registers)
        self._segments.append(segment)
        self._members: list[set[str]] = [*getattr(self, "_members", []), set()]
        self.steps.append(ProgramStep(SEGMENT, i))
        return segment

    def _translate(self, segment: Segment, i: Instruction) -> None:
        try:
            segment.translate(i)
        except (KeyError, IndexError, ValueError) as error:
            raise UnknownInstructionError(f"line {i.line}: {i}") from error
        self._members[-1].update(_names(i))

    def _count_segments(self) -> None:
        for members in self._members:
            self._units.update(members)

    def _is_read_elsewhere(self, segment: Segment, name: str) -> bool:
        return self._units[name] > 1 or name in segment.needed

    def _other(self, i: Instruction) -> ProgramStep:
        guard = None
        if i.guard is not None:
            place = self.registers.place(i.guard[0])
            if place is None:
                raise UnknownInstructionError(f"line {i.line}: {i}")
            guard = place[1], i.guard[1]
        if i.parts[0] == "bra":
            return ProgramStep(BRANCH, i, guard=guard)
        if i.parts[0] in ("ret", "exit"):
            return ProgramStep(EXIT, i, guard=guard)
        return ProgramStep(OPERATION, i, handler=handler_for(i), guard=guard)

    def lanes(self, operand: str, bits: int, rows: dict[str, np.ndarray]) -> np.ndarray:
        """An operand as unsigned integers [32]: ``rows`` are a warp's registers by class."""
        place = self.registers.names.get(operand)
        if place is None:
            return self.registers.constant(operand, bits)
        row = rows[place[0]][place[1]]
        dtype = np.bool_ if bits == 1 else f"u{bits // 8}"
        return row if row.dtype == dtype else row.astype(dtype)


EVERYBODY = np.ones(WARP, np.bool_)
