"""What is known about instructions: their types, and the table of what each one does."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .ptx import Instruction

if TYPE_CHECKING:
    from .simt import Warps

WARP = 32
FLOATS = ("f32", "f16", "f64", "bf16", "f16x2", "bf16x2", "f32x2", "e4m3x2", "tf32")
PACKED = {"pred": 1, "bf16": 16, "bf16x2": 32, "f16x2": 32, "f32x2": 64}
UNSIGNED = {1: np.bool_, 8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
SIGNED = {8: np.int8, 16: np.int16, 32: np.int32, 64: np.int64}


class UnknownInstructionError(Exception):
    """The emulator has no rule for it."""


class Blocked(Exception):  # noqa: N818 - not an error: the warp waits
    """The warp cannot go on now; the same instruction is tried again later."""


@functools.cache
def type_of(parts: tuple[str, ...]) -> tuple[str, int]:
    """(kind, bits) of the last type suffix."""
    for part in reversed(parts):
        if part in PACKED:
            return "f", PACKED[part]
        if found := re.fullmatch(r"([bsuf])(8|16|32|64|128)", part):
            return found[1], int(found[2])
    raise UnknownInstructionError(f"no type in {'.'.join(parts)}")


Rule = Callable[["Warps", Instruction, np.ndarray], None]
_rules: dict[str, Rule] = {}


def rule(*names: str):
    """Registers what an instruction does."""

    def add(function: Rule) -> Rule:
        _rules.update(dict.fromkeys(names, function))
        return function

    return add


MATH = {
    "add", "sub", "mul", "fma", "mad", "max", "min", "abs", "neg", "rcp", "ex2", "cvt", "setp", "div", "sqrt", "rsqrt",
    "lg2", "copysign", "selp",
}  # fmt: skip


@rule("fence", "prefetch", "membar", "nanosleep", "fma", "rcp", "ex2", "lg2", "setmaxnreg")
def nothing(w: Warps, i: Instruction, mask: np.ndarray) -> None:
    """No effect on what is watched."""


def rule_for(i: Instruction) -> Rule:
    """The rule of an instruction; float arithmetic does nothing."""
    found = _rules.get(i.parts[0])
    if i.parts[0] in MATH and any(p in FLOATS for p in i.parts[1:]):
        if i.parts[0] == "setp":
            raise UnknownInstructionError(f"control depends on floats: {i}")
        return nothing
    if found is None:
        raise UnknownInstructionError(str(i))
    return found


# What the machine around the warps answers.

for _name in (
    "ld", "st", "red", "atom", "mbarrier", "bar", "barrier", "cp", "mapa", "griddepcontrol", "wgmma", "tcgen05",
):  # fmt: skip
    _rules[_name] = lambda w, i, mask: w.machine.execute(w, i, mask)
