"""Warps that execute PTX: integer arithmetic, predicates, branches and exchanges between lanes, in NumPy.

Float arithmetic is left out (its results are zeros): which tile, stage, barrier or address comes next never depends on
it, and a kernel in which it did would be refused here. Registers hold 32 lanes for each of ``n`` warps that run side by
side; the lanes of a warp may part and meet again (the lowest program counter goes first).
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable

import numpy as np

from .ptx import Instruction, Kernel

WARP = 32
NOBODY = np.zeros((1, WARP), bool)
FLOATS = ("f32", "f16", "f64", "bf16", "f16x2", "bf16x2", "f32x2", "e4m3x2", "tf32")
PACKED = {"pred": 1, "bf16": 16, "bf16x2": 32, "f16x2": 32, "f32x2": 64}
UNSIGNED = {1: np.bool_, 8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
SIGNED = {8: np.int8, 16: np.int16, 32: np.int32, 64: np.int64}
IGNORED = {"fence", "prefetch", "membar", "griddepcontrol_launch", "nanosleep"}
COMPARE = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
    "lo": operator.lt, "ls": operator.le, "hi": operator.gt, "hs": operator.ge,
}  # fmt: skip


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
        lanes = np.broadcast_to(np.arange(WARP, dtype=np.uint32), (n, WARP))
        self.special = {"%laneid": lanes}
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


Rule = Callable[[Warps, Instruction, np.ndarray], None]
_rules: dict[str, Rule] = {}


def rule(*names: str):
    """Registers what an instruction does."""

    def add(function: Rule) -> Rule:
        _rules.update(dict.fromkeys(names, function))
        return function

    return add


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


MATH = {
    "add", "sub", "mul", "fma", "mad", "max", "min", "abs", "neg", "rcp", "ex2", "cvt", "setp", "div", "sqrt", "rsqrt",
    "lg2", "copysign", "selp",
}  # fmt: skip


@rule("fence", "prefetch", "membar", "nanosleep", "fma", "rcp", "ex2", "lg2", "wgmma_ignored", "setmaxnreg")
def nothing(w: Warps, i: Instruction, mask: np.ndarray) -> None:
    """No effect on what is watched."""


def _binary(function):
    def run(w: Warps, i: Instruction, mask: np.ndarray) -> None:
        kind, bits = type_of(i.parts)
        dtype = SIGNED[bits] if kind == "s" else UNSIGNED[bits]
        a, b = (w.value(o, bits).view(dtype) for o in i.operands[1:3])
        with np.errstate(over="ignore", divide="ignore"):
            w.set(i.operands[0], function(a, b).astype(dtype, copy=False).view(UNSIGNED[bits]), mask)

    return run


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Towards zero; by zero all ones, as the hardware does."""
    safe = np.where(b == 0, 1, b)
    quotient = abs(a) // abs(safe)
    quotient = np.where((a < 0) != (safe < 0), -quotient, quotient)
    return np.where(b == 0, np.array(-1).astype(a.dtype), quotient).astype(a.dtype)


_rules["add"] = _binary(operator.add)
_rules["sub"] = _binary(operator.sub)
_rules["and"] = _binary(operator.and_)
_rules["or"] = _binary(operator.or_)
_rules["xor"] = _binary(operator.xor)
_rules["max"] = _binary(np.maximum)
_rules["min"] = _binary(np.minimum)
_rules["div"] = _binary(_divide)
_rules["rem"] = _binary(lambda a, b: a - _divide(a, b) * b)


@rule("mul", "mad")
def multiply(w: Warps, i: Instruction, mask: np.ndarray) -> None:
    """mul.lo, mul.wide, mul.hi and their mad forms."""
    kind, bits = type_of(i.parts)
    dtype = SIGNED[bits] if kind == "s" else UNSIGNED[bits]
    a, b = (w.value(o, bits).view(dtype) for o in i.operands[1:3])
    with np.errstate(over="ignore"):
        if "wide" in i.parts:
            wide = SIGNED[2 * bits] if kind == "s" else UNSIGNED[2 * bits]
            out = (a.astype(wide) * b.astype(wide)).view(UNSIGNED[2 * bits])
        elif "hi" in i.parts and bits == 32:
            wide = np.int64 if kind == "s" else np.uint64
            out = ((a.astype(wide) * b.astype(wide)) >> 32).astype(dtype).view(np.uint32)
        elif "hi" in i.parts:
            raise UnknownInstructionError(str(i))
        else:
            out = (a * b).view(UNSIGNED[bits])
        if i.parts[0] == "mad":
            out = out + w.value(i.operands[3], out.dtype.itemsize * 8)
    w.set(i.operands[0], out, mask)


@rule("shl", "shr")
def shift(w: Warps, i: Instruction, mask: np.ndarray) -> None:
    """Amounts beyond the width give zeros or the sign."""
    kind, bits = type_of(i.parts)
    dtype = SIGNED[bits] if kind == "s" else UNSIGNED[bits]
    a, amount = w.value(i.operands[1], bits).view(dtype), w.value(i.operands[2], 32)
    inside = np.minimum(amount, bits - 1).astype(dtype)
    if i.parts[0] == "shl":
        out = np.where(amount >= bits, np.zeros_like(a), a << inside)
    else:
        out = a >> inside
        if kind != "s":
            out = np.where(amount >= bits, np.zeros_like(a), out)
    w.set(i.operands[0], out.astype(dtype).view(UNSIGNED[bits]), mask)


@rule("shf")
def funnel(w: Warps, i: Instruction, mask: np.ndarray) -> None:
    """Bits out of a pair of 32-bit values."""
    low, high, amount = (w.value(o, 32).astype(np.uint64) for o in i.operands[1:4])
    amount = amount & 31 if "wrap" in i.parts else np.minimum(amount, 32)
    both = (high << np.uint64(32)) | low
    out = both >> amount if "r" in i.parts else (both << amount) >> np.uint64(32)
    w.set(i.operands[0], (out & np.uint64(0xFFFFFFFF)).astype(np.uint32), mask)


@rule("not", "neg", "abs", "popc", "clz", "brev", "bfind")
def unary(w: Warps, i: Instruction, mask: np.ndarray) -> None:
    """One operand."""
    bits = type_of(i.parts)[1]
    a = w.value(i.operands[1], bits)
    if i.parts[0] == "not":
        out = ~a
    elif i.parts[0] == "neg":
        out = (-a.view(SIGNED[bits])).view(UNSIGNED[bits])
    elif i.parts[0] == "abs":
        out = np.abs(a.view(SIGNED[bits])).view(UNSIGNED[bits])
    elif i.parts[0] == "popc":
        out = np.bitwise_count(a).astype(np.uint32)
    elif i.parts[0] == "clz":
        out = np.array([[bits - int(v).bit_length() for v in row] for row in a], np.uint32)
    elif i.parts[0] == "brev":
        out = np.array([[int(f"{int(v):0{bits}b}"[::-1], 2) for v in row] for row in a], UNSIGNED[bits])
    else:
        raise UnknownInstructionError(str(i))
    w.set(i.operands[0], out, mask)


@rule("lop3")
def logic(w: Warps, i: Instruction, mask: np.ndarray) -> None:
    """Any function of three bits, by its truth table."""
    a, b, c = (w.value(o, 32) for o in i.operands[1:4])
    table = int(i.operands[4], 0)
    out = np.zeros_like(a)
    for bit in range(8):
        if table >> bit & 1:
            out |= (a if bit & 4 else ~a) & (b if bit & 2 else ~b) & (c if bit & 1 else ~c)
    w.set(i.operands[0], out, mask)


@rule("bfe", "prmt", "bfi")
def fields(w: Warps, i: Instruction, mask: np.ndarray) -> None:
    """Bit fields and byte permutation."""
    if i.parts[0] == "prmt":
        a, b, s = (w.value(o, 32).astype(np.uint64) for o in i.operands[1:4])
        both, out = (b << np.uint64(32)) | a, np.zeros_like(a)
        for n in range(4):
            at = (s >> np.uint64(4 * n)) & np.uint64(7)
            out |= ((both >> (at * np.uint64(8))) & np.uint64(255)) << np.uint64(8 * n)
        w.set(i.operands[0], out.astype(np.uint32), mask)
    elif i.parts[0] == "bfe" and type_of(i.parts) == ("u", 32):
        a, at, length = (w.value(o, 32) for o in i.operands[1:4])
        w.set(i.operands[0], (a >> at) & ((np.uint32(1) << length) - np.uint32(1)), mask)
    else:
        raise UnknownInstructionError(str(i))


@rule("mov", "cvta")
def move(w: Warps, i: Instruction, mask: np.ndarray) -> None:
    """Copies; vectors pack and unpack 32-bit halves."""
    target, source = i.operands[:2]
    bits = type_of(i.parts)[1]
    if isinstance(source, tuple):
        width = bits // len(source)
        parts = [w.value(o, width).astype(UNSIGNED[bits]) << UNSIGNED[bits](width * n) for n, o in enumerate(source)]
        w.set(target, sum(parts[1:], parts[0]), mask)
    elif isinstance(target, tuple):
        width = bits // len(target)
        value = w.value(source, bits)
        for n, register in enumerate(target):
            w.set(register, (value >> UNSIGNED[bits](width * n)).astype(UNSIGNED[width]), mask)
    else:
        w.set(target, w.value(source, bits), mask)


@rule("cvt")
def convert(w: Warps, i: Instruction, mask: np.ndarray) -> None:
    """Between integers: truncation or extension by the source's sign."""
    types = [p for p in i.parts if re.fullmatch(r"[bsu](8|16|32|64)", p)]
    to, source = types[0], types[-1]
    bits = int(source[1:])
    a = w.value(i.operands[1], max(bits, 16)).astype(UNSIGNED[bits])
    value = a.view(SIGNED[bits]) if source[0] == "s" else a
    wide = max(int(to[1:]), 16)
    out = value.astype(SIGNED[int(to[1:])] if to[0] == "s" else UNSIGNED[int(to[1:])])
    w.set(i.operands[0], out.astype(SIGNED[wide] if to[0] == "s" else UNSIGNED[wide]).view(UNSIGNED[wide]), mask)


@rule("setp")
def compare(w: Warps, i: Instruction, mask: np.ndarray) -> None:
    """Comparison, possibly joined with another predicate."""
    kind, bits = type_of(i.parts)
    dtype = SIGNED[bits] if kind == "s" else UNSIGNED[bits]
    a, b = (w.value(o, bits).view(dtype) for o in i.operands[1:3])
    out = COMPARE[i.parts[1]](a, b)
    if len(i.operands) > 3:
        other = w.value(i.operands[3].lstrip("!"), 1) ^ i.operands[3].startswith("!")
        out = {"and": out & other, "or": out | other, "xor": out ^ other}[i.parts[2]]
    names = i.operands[0].split("|")
    w.set(names[0], out, mask)
    if len(names) > 1:
        w.set(names[1], ~out, mask)


@rule("selp")
def select(w: Warps, i: Instruction, mask: np.ndarray) -> None:
    """One of two values."""
    bits = type_of(i.parts)[1]
    a, b = (w.value(o, bits) for o in i.operands[1:3])
    w.set(i.operands[0], np.where(w.value(i.operands[3], 1), a, b), mask)


# Between the lanes of a warp. All lanes named by the member mask must be here.


def _together(w: Warps, mask: np.ndarray, i: Instruction) -> None:
    rows = mask.any(axis=1)
    if not (mask[rows] == w.alive[rows]).all():
        raise UnknownInstructionError(f"lanes of a warp are missing at {i}")


@rule("shfl")
def shuffle(w: Warps, i: Instruction, mask: np.ndarray) -> None:
    """shfl.sync.up, .down, .bfly and .idx over whole warps."""
    _together(w, mask, i)
    target = i.operands[0].split("|")
    value, lane = w.value(i.operands[1], 32), np.arange(WARP)
    b, c = w.value(i.operands[2], 32).astype(np.int64), w.value(i.operands[3], 32).astype(np.int64)
    segment, clamp = (c >> 8) & 31, c & 31
    floor = lane & segment
    top = floor | (clamp & ~segment)
    if "up" in i.parts:
        source, inside = lane - b, lane - b >= top
    elif "down" in i.parts:
        source, inside = lane + b, lane + b <= top
    elif "bfly" in i.parts:
        source, inside = lane ^ b, (lane ^ b) <= top
    else:
        source = floor | (b & ~segment)
        inside = source <= top
    source = np.where(inside, source, lane)
    w.set(target[0], np.take_along_axis(value, source, axis=1), mask)
    if len(target) > 1:
        w.set(target[1], inside, mask)


@rule("vote")
def vote(w: Warps, i: Instruction, mask: np.ndarray) -> None:
    """ballot, any, all."""
    _together(w, mask, i)
    text = i.operands[1]
    flags = (w.value(text.lstrip("!"), 1) ^ text.startswith("!")) & mask
    if "ballot" in i.parts:
        bits = (flags.astype(np.uint64) << np.arange(WARP, dtype=np.uint64)).sum(axis=1, keepdims=True)
        w.set(i.operands[0], bits.astype(np.uint32), mask)
    elif "any" in i.parts:
        w.set(i.operands[0], flags.any(axis=1, keepdims=True), mask)
    else:
        w.set(i.operands[0], (flags | ~mask).all(axis=1, keepdims=True), mask)


@rule("redux")
def reduce(w: Warps, i: Instruction, mask: np.ndarray) -> None:
    """min, max, add over the warp."""
    _together(w, mask, i)
    if any(p in FLOATS for p in i.parts):
        return
    kind, _ = type_of(i.parts)
    value = w.value(i.operands[1], 32).view(np.int32 if kind == "s" else np.uint32)
    how = {"max": np.max, "min": np.min, "add": np.sum}[next(p for p in i.parts if p in ("max", "min", "add"))]
    w.set(i.operands[0], how(value, axis=1, keepdims=True).astype(value.dtype).view(np.uint32), mask)


@rule("elect")
def elect(w: Warps, i: Instruction, mask: np.ndarray) -> None:
    """The lowest lane that is here."""
    lane, flag = i.operands[0].split("|")
    first = np.argmax(mask, axis=1)[:, None]
    w.set(lane, first.astype(np.uint32), mask)
    w.set(flag, np.arange(WARP)[None, :] == first, mask)


@rule("activemask")
def active(w: Warps, i: Instruction, mask: np.ndarray) -> None:
    """Lanes that are here."""
    bits = (mask.astype(np.uint64) << np.arange(WARP, dtype=np.uint64)).sum(axis=1, keepdims=True)
    w.set(i.operands[0], bits.astype(np.uint32), mask)


# What the machine around the warps answers.

for _name in (
    "ld", "st", "red", "atom", "mbarrier", "bar", "barrier", "cp", "mapa", "griddepcontrol", "wgmma", "tcgen05",
):  # fmt: skip
    _rules[_name] = lambda w, i, mask: w.machine.execute(w, i, mask)
