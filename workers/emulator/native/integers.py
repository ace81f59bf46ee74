"""Integers, bits, predicates and moves in LLVM IR."""

from __future__ import annotations

from ..errors import UnknownInstructionError
from ..ptx import Instruction
from .segment import BITS, LETTER, VECTOR, Segment, rule, type_of

_PLAIN = {"add": "add", "sub": "sub", "and": "and", "or": "or", "xor": "xor"}
_COMPARE = {"eq": "eq", "ne": "ne", "lt": "lt", "le": "le", "gt": "gt", "ge": "ge",
            "lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}  # fmt: skip


def integer_binary(seg: Segment, i: Instruction) -> None:
    """add, sub, and, or, xor, min, max, div, rem of integers."""
    kind, bits = type_of(i.parts)
    letter, name = LETTER[bits], i.parts[0]
    vector = VECTOR[letter]
    a, b = (seg.read(o, letter) for o in i.operands[1:3])
    sign = "s" if kind == "s" else "u"
    if name in _PLAIN:
        out = seg.do(f"{_PLAIN[name]} {vector} {a}, {b}")
    elif name in ("min", "max"):
        out = seg.call(vector, f"llvm.{sign}{name}.v32i{bits}", (vector, a), (vector, b))
        if "relu" in i.parts:
            out = seg.call(vector, f"llvm.smax.v32i{bits}", (vector, out), (vector, seg.splat(letter, 0)))
    else:
        out = _divide(seg, name, sign, letter, a, b)
    seg.write(i.operands[0], out, letter)


def _divide(seg: Segment, name: str, sign: str, letter: str, a: str, b: str) -> str:
    """Divide towards zero; by zero gives all ones, as on the GPU. By -1 it negates, since the CPU would overflow."""
    vector, zero, one = VECTOR[letter], seg.splat(letter, 0), seg.splat(letter, 1)
    by_zero = seg.do(f"icmp eq {vector} {b}, {zero}")
    odd = by_zero
    if sign == "s":
        negates = seg.do(f"icmp eq {vector} {b}, {seg.splat(letter, -1)}")
        odd = seg.do(f"or <32 x i1> {by_zero}, {negates}")
    safe = seg.do(f"select <32 x i1> {odd}, {vector} {one}, {vector} {b}")
    out = seg.do(f"{sign}{name} {vector} {a}, {safe}")
    if name == "rem":
        return seg.do(f"select <32 x i1> {by_zero}, {vector} {a}, {vector} {out}")
    if sign == "s":
        negated = seg.do(f"sub {vector} {zero}, {a}")
        out = seg.do(f"select <32 x i1> {negates}, {vector} {negated}, {vector} {out}")
    return seg.do(f"select <32 x i1> {by_zero}, {vector} {seg.splat(letter, -1)}, {vector} {out}")


def multiply(seg: Segment, i: Instruction) -> None:
    """mul.lo, mul.wide, mul.hi and their mad forms."""
    kind, bits = type_of(i.parts)
    letter = LETTER[bits]
    vector, extend = VECTOR[letter], "sext" if kind == "s" else "zext"
    a, b = (seg.read(o, letter) for o in i.operands[1:3])
    if "wide" in i.parts or "hi" in i.parts:
        wide = f"<32 x i{2 * bits}>"
        big = [seg.do(f"{extend} {vector} {v} to {wide}") for v in (a, b)]
        out = seg.do(f"mul {wide} {big[0]}, {big[1]}")
        if "hi" in i.parts:
            out = seg.do(f"lshr {wide} {out}, splat (i{2 * bits} {bits})")
            out = seg.do(f"trunc {wide} {out} to {vector}")
        else:
            letter, vector = LETTER[2 * bits], wide
    else:
        out = seg.do(f"mul {vector} {a}, {b}")
    if i.parts[0] == "mad":
        out = seg.do(f"add {vector} {out}, {seg.read(i.operands[3], letter)}")
    seg.write(i.operands[0], out, letter)


@rule("shl", "shr")
def shift(seg: Segment, i: Instruction) -> None:
    """shl and shr; amounts beyond the width give zeros or copies of the sign."""
    kind, bits = type_of(i.parts)
    letter = LETTER[bits]
    vector = VECTOR[letter]
    a, amount = seg.read(i.operands[1], letter), seg.read(i.operands[2], "r")
    most = seg.call(VECTOR["r"], "llvm.umin.v32i32", (VECTOR["r"], amount), (VECTOR["r"], seg.splat("r", bits - 1)))
    inside = seg.resized(most, "r", letter)
    how = "shl" if i.parts[0] == "shl" else "ashr" if kind == "s" else "lshr"
    out = seg.do(f"{how} {vector} {a}, {inside}")
    if how != "ashr":
        beyond = seg.do(f"icmp uge {VECTOR['r']} {amount}, {seg.splat('r', bits)}")
        out = seg.do(f"select <32 x i1> {beyond}, {vector} {seg.splat(letter, 0)}, {vector} {out}")
    seg.write(i.operands[0], out, letter)


@rule("shf")
def funnel(seg: Segment, i: Instruction) -> None:
    """shf: shift a pair of 32-bit values as one."""
    low, high = (seg.read(o, "d") for o in i.operands[1:3])
    amount = seg.read(i.operands[3], "r")
    if "wrap" in i.parts:
        amount = seg.do(f"and {VECTOR['r']} {amount}, {seg.splat('r', 31)}")
    else:
        amount = seg.call(VECTOR["r"], "llvm.umin.v32i32", (VECTOR["r"], amount), (VECTOR["r"], seg.splat("r", 32)))
    by = seg.resized(amount, "r", "d")
    top = seg.do(f"shl {VECTOR['d']} {high}, {seg.splat('d', 32)}")
    both = seg.do(f"or {VECTOR['d']} {top}, {low}")
    if "r" in i.parts:
        out = seg.do(f"lshr {VECTOR['d']} {both}, {by}")
    else:
        out = seg.do(f"shl {VECTOR['d']} {both}, {by}")
        out = seg.do(f"lshr {VECTOR['d']} {out}, {seg.splat('d', 32)}")
    seg.write(i.operands[0], out, "d")


def integer_unary(seg: Segment, i: Instruction) -> None:
    """not, neg, abs, popc, clz and brev of integers."""
    bits = type_of(i.parts)[1]
    letter = LETTER[bits]
    vector, name = VECTOR[letter], i.parts[0]
    a = seg.read(i.operands[1], letter)
    if name == "not":
        out = seg.do(f"xor {vector} {a}, {seg.splat(letter, -1)}")
    elif name == "neg":
        out = seg.do(f"sub {vector} {seg.splat(letter, 0)}, {a}")
    elif name == "abs":
        out = seg.call(vector, f"llvm.abs.v32i{bits}", (vector, a), ("i1", "false"))
    elif name == "popc":
        out = seg.call(vector, f"llvm.ctpop.v32i{bits}", (vector, a))
    elif name == "clz":
        out = seg.call(vector, f"llvm.ctlz.v32i{bits}", (vector, a), ("i1", "false"))
    elif name == "brev":
        out = seg.call(vector, f"llvm.bitreverse.v32i{bits}", (vector, a))
    else:
        raise UnknownInstructionError(str(i))
    seg.write(i.operands[0], out, letter)


rule("not", "popc", "clz", "brev")(integer_unary)
rule("and", "or", "xor", "rem")(integer_binary)


@rule("lop3")
def logic(seg: Segment, i: Instruction) -> None:
    """Any function of three bits, by its truth table."""
    vector, ones = VECTOR["r"], seg.splat("r", -1)
    yes = [seg.read(o, "r") for o in i.operands[1:4]]
    no = [seg.do(f"xor {vector} {v}, {ones}") for v in yes]
    out, table = seg.splat("r", 0), int(i.operands[4], 0)
    for bit in range(8):
        if table >> bit & 1:
            a, b, c = ((yes if bit & m else no)[n] for n, m in enumerate((4, 2, 1)))
            term = seg.do(f"and {vector} {seg.do(f'and {vector} {a}, {b}')}, {c}")
            out = seg.do(f"or {vector} {out}, {term}")
    seg.write(i.operands[0], out, "r")


@rule("bfe", "prmt")
def fields(seg: Segment, i: Instruction) -> None:
    """bfe, bfi and prmt: bit fields and byte permutation."""
    vector = VECTOR["d"]
    if i.parts[0] == "bfe":
        if type_of(i.parts) != ("u", 32):
            raise UnknownInstructionError(str(i))
        a, at, length = (seg.read(o, "d") for o in i.operands[1:4])
        mask = seg.do(f"shl {vector} {seg.splat('d', 1)}, {length}")
        mask = seg.do(f"sub {vector} {mask}, {seg.splat('d', 1)}")
        seg.write(i.operands[0], seg.do(f"and {vector} {seg.do(f'lshr {vector} {a}, {at}')}, {mask}"), "d")
        return
    low, high, selector = (seg.read(o, "d") for o in i.operands[1:4])
    top = seg.do(f"shl {vector} {high}, {seg.splat('d', 32)}")
    both, out = seg.do(f"or {vector} {top}, {low}"), seg.splat("d", 0)
    for n in range(4):
        at = seg.do(f"lshr {vector} {selector}, {seg.splat('d', 4 * n)}")
        at = seg.do(f"and {vector} {at}, {seg.splat('d', 7)}")
        at = seg.do(f"shl {vector} {at}, {seg.splat('d', 3)}")
        byte = seg.do(f"and {vector} {seg.do(f'lshr {vector} {both}, {at}')}, {seg.splat('d', 255)}")
        byte = seg.do(f"shl {vector} {byte}, {seg.splat('d', 8 * n)}")
        out = seg.do(f"or {vector} {out}, {byte}")
    seg.write(i.operands[0], out, "d")


@rule("mov", "cvta")
def move(seg: Segment, i: Instruction) -> None:
    """mov: copy a value, or pack and unpack a vector."""
    target, source = i.operands[:2]
    letter = LETTER[type_of(i.parts)[1]]
    vector, bits = VECTOR[letter], BITS[letter]
    if isinstance(source, tuple):
        width, out = bits // len(source), None
        for n, operand in enumerate(source):
            part = seg.resized(seg.read(operand, LETTER[width]), LETTER[width], letter)
            if n:
                part = seg.do(f"shl {vector} {part}, {seg.splat(letter, width * n)}")
            out = part if out is None else seg.do(f"or {vector} {out}, {part}")
        assert out is not None
        seg.write(target, out, letter)
    elif isinstance(target, tuple):
        width = bits // len(target)
        value = seg.read(source, letter)
        for n, register in enumerate(target):
            part = seg.do(f"lshr {vector} {value}, {seg.splat(letter, width * n)}") if n else value
            seg.write(register, seg.resized(part, letter, LETTER[width]), LETTER[width])
    else:
        seg.write(target, seg.read(source, letter), letter)


def integer_convert(seg: Segment, to: str, source: str, i: Instruction) -> None:
    """Truncation, or extension by the source's sign."""
    have, want = int(source[1:]), int(to[1:])
    value = seg.read(i.operands[1], LETTER[have])
    if have == 8:
        value = seg.do(f"trunc {VECTOR['h']} {value} to <32 x i8>")
    inner, outer = f"<32 x i{have}>", f"<32 x i{want}>"
    if want > have:
        value = seg.do(f"{'sext' if source[0] == 's' else 'zext'} {inner} {value} to {outer}")
    elif want < have:
        value = seg.do(f"trunc {inner} {value} to {outer}")
    if want == 8:
        value = seg.do(f"{'sext' if to[0] == 's' else 'zext'} {outer} {value} to {VECTOR['h']}")
    seg.write(i.operands[0], value, LETTER[want])


def integer_compare(seg: Segment, i: Instruction) -> str:
    """setp of integers."""
    kind, bits = type_of(i.parts)
    a, b = (seg.read(o, LETTER[bits]) for o in i.operands[1:3])
    how = _COMPARE[i.parts[1]]
    if how not in ("eq", "ne"):
        how = ("s" if kind == "s" else "u") + how
    return seg.do(f"icmp {how} {VECTOR[LETTER[bits]]} {a}, {b}")


@rule("selp")
def select(seg: Segment, i: Instruction) -> None:
    """selp: choose one of two values by a predicate."""
    letter = LETTER[type_of(i.parts)[1]]
    a, b = (seg.read(o, letter) for o in i.operands[1:3])
    flag = seg.read(i.operands[3], "p")
    vector = VECTOR[letter]
    seg.write(i.operands[0], seg.do(f"select <32 x i1> {flag}, {vector} {a}, {vector} {b}"), letter)
