"""Integer arithmetic, comparisons and moves."""

from __future__ import annotations

import operator
import re
from typing import TYPE_CHECKING

import numpy as np

from .ptx import Instruction
from .rules import SIGNED, UNSIGNED, UnknownInstructionError, _rules, rule, type_of

if TYPE_CHECKING:
    from .simt import Warps

COMPARE = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
    "lo": operator.lt, "ls": operator.le, "hi": operator.gt, "hs": operator.ge,
}  # fmt: skip


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
