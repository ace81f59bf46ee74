"""Float32, bfloat16 and FP8 arithmetic in LLVM IR, with the hardware's rounding.

``.approx`` operations are the correctly rounded ones here; the hardware's differ in the last bit.
"""

from __future__ import annotations

import re

from ..errors import UnknownInstructionError
from ..ptx import Instruction
from ..registers import float_bits
from .integers import _COMPARE, integer_binary, integer_compare, integer_convert, integer_unary, multiply
from .segment import F32, F32X2, F64, VECTOR, Segment, rule, type_of

_R = VECTOR["r"]
_ARITHMETIC = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}


@rule("add", "sub", "mul", "mad", "div", "min", "max")
def binary(seg: Segment, i: Instruction) -> None:
    """An operation on two operands, of integers or floats."""
    kind, _ = type_of(i.parts)
    name = i.parts[0]
    if kind in "bsu":
        (multiply if name in ("mul", "mad") else integer_binary)(seg, i)
    elif kind == "f2":
        a, b = (seg.pair(o) for o in i.operands[1:3])
        out = seg.do(f"{_ARITHMETIC[name]} {F32X2} {a}, {b}")
        seg.write(i.operands[0], seg.do(f"bitcast {F32X2} {out} to {VECTOR['d']}"), "d")
    elif i.parts[-1] == "f32" and name != "mad":
        _rounded_to_nearest(i)
        a, b = (seg.float(o) for o in i.operands[1:3])
        if name in _ARITHMETIC:
            out = seg.do(f"{_ARITHMETIC[name]} {F32} {a}, {b}")
        else:
            out = seg.call(F32, f"llvm.{name}num.v32f32", (F32, a), (F32, b))
        seg.write_float(i.operands[0], out, "ftz" in i.parts)
    else:
        raise UnknownInstructionError(str(i))


def _rounded_to_nearest(i: Instruction) -> None:
    if {"rz", "rm", "rp"} & set(i.parts):
        raise UnknownInstructionError(str(i))


@rule("fma")
def fused(seg: Segment, i: Instruction) -> None:
    """fma, rounded once: to nearest, or towards minus infinity."""
    if type_of(i.parts)[0] == "f2":
        a, b, c = (seg.pair(o) for o in i.operands[1:4])
        out = seg.call(F32X2, "llvm.fma.v64f32", (F32X2, a), (F32X2, b), (F32X2, c))
        seg.write(i.operands[0], seg.do(f"bitcast {F32X2} {out} to {VECTOR['d']}"), "d")
        return
    a, b, c = (seg.float(o) for o in i.operands[1:4])
    if "rm" in i.parts:
        out = _fused_down(seg, a, b, c)
    else:
        if {"rz", "rp"} & set(i.parts):
            raise UnknownInstructionError(str(i))
        out = seg.call(F32, "llvm.fma.v32f32", (F32, a), (F32, b), (F32, c))
    seg.write_float(i.operands[0], out, "ftz" in i.parts)


def _fused_down(seg: Segment, a: str, b: str, c: str) -> str:
    """fma towards minus infinity; the product and the error of the sum are exact in float64."""
    a, b, c = (seg.do(f"fpext {F32} {v} to {F64}") for v in (a, b, c))
    product = seg.do(f"fmul {F64} {a}, {b}")
    total = seg.do(f"fadd {F64} {product}, {c}")
    back = seg.do(f"fsub {F64} {total}, {product}")
    rest = seg.do(f"fsub {F64} {c}, {back}")
    lost = seg.do(f"fsub {F64} {product}, {seg.do(f'fsub {F64} {total}, {back}')}")
    error = seg.do(f"fadd {F64} {rest}, {lost}")
    near = seg.do(f"fptrunc {F64} {total} to {F32}")
    wide = seg.do(f"fpext {F32} {near} to {F64}")
    above = seg.do(f"fcmp ogt {F64} {wide}, {total}")
    equal = seg.do(f"fcmp oeq {F64} {wide}, {total}")
    short = seg.do(f"fcmp olt {F64} {error}, zeroinitializer")
    step = seg.do(f"or <32 x i1> {above}, {seg.do(f'and <32 x i1> {equal}, {short}')}")
    bits = seg.do(f"bitcast {F32} {near} to {_R}")
    negative = seg.do(f"icmp slt {_R} {bits}, {seg.splat('r', 0)}")
    move = seg.do(f"select <32 x i1> {negative}, {_R} {seg.splat('r', 1)}, {_R} {seg.splat('r', -1)}")
    down = seg.do(f"add {_R} {bits}, {move}")
    return seg.do(f"bitcast {_R} {seg.do(f'select <32 x i1> {step}, {_R} {down}, {_R} {bits}')} to {F32}")


@rule("rcp", "ex2", "lg2", "sqrt", "rsqrt")
def function(seg: Segment, i: Instruction) -> None:
    """Functions of one float32, computed in float64 and rounded once."""
    if i.parts[-1] != "f32":
        raise UnknownInstructionError(str(i))
    _rounded_to_nearest(i)
    bits = seg.read(i.operands[1], "r")
    if "ftz" in i.parts:
        bits = seg.flushed(bits)
    x = seg.do(f"fpext {F32} {seg.do(f'bitcast {_R} {bits} to {F32}')} to {F64}")
    one = "splat (double 1.0)"
    name = i.parts[0]
    if name in ("sqrt", "rsqrt"):
        x = seg.call(F64, "llvm.sqrt.v32f64", (F64, x))
    if name == "ex2":
        x = seg.do(f"call {F64} @lanes_exp2({F64} {x})")
    elif name == "lg2":
        x = seg.do(f"call {F64} @lanes_log2({F64} {x})")
    elif name in ("rcp", "rsqrt"):
        x = seg.do(f"fdiv {F64} {one}, {x}")
    seg.write_float(i.operands[0], seg.do(f"fptrunc {F64} {x} to {F32}"), "ftz" in i.parts)


HELPERS = """
declare <32 x double> @llvm.exp2.v32f64(<32 x double>)
declare <32 x double> @llvm.log2.v32f64(<32 x double>)
define internal <32 x double> @lanes_exp2(<32 x double> %x) noinline {
%y = call <32 x double> @llvm.exp2.v32f64(<32 x double> %x)
ret <32 x double> %y
}
define internal <32 x double> @lanes_log2(<32 x double> %x) noinline {
%y = call <32 x double> @llvm.log2.v32f64(<32 x double> %x)
ret <32 x double> %y
}
"""
"""Functions that are called once for every lane."""


@rule("neg", "abs")
def unary(seg: Segment, i: Instruction) -> None:
    """neg and abs of a float32; integers have rules of their own."""
    if type_of(i.parts)[0] in "bsu":
        integer_unary(seg, i)
        return
    if i.parts[-1] != "f32":
        raise UnknownInstructionError(str(i))
    bits = seg.read(i.operands[1], "r")
    how, mask = ("xor", 0x80000000) if i.parts[0] == "neg" else ("and", 0x7FFFFFFF)
    seg.write(i.operands[0], seg.do(f"{how} {_R} {bits}, {seg.splat('r', mask)}"), "r")


@rule("cvt")
def convert(seg: Segment, i: Instruction) -> None:
    """Between integers, float32, bfloat16 and FP8."""
    types = [p for p in i.parts if re.fullmatch(r"[bsuf](8|16|32|64)|bf16(x2)?|e4m3x2", p)]
    to, source = types[0], types[-1]
    if to[0] in "su" and source[0] in "su":
        integer_convert(seg, to, source, i)
    elif (to, source) == ("f32", "bf16"):
        value = seg.resized(seg.read(i.operands[1], "h"), "h", "r")
        seg.write(i.operands[0], seg.do(f"shl {_R} {value}, {seg.splat('r', 16)}"), "r")
    elif (to, source) == ("bf16", "f32"):
        seg.write(i.operands[0], _bfloat(seg, i.operands[1]), "r")
    elif (to, source) == ("bf16x2", "f32"):
        high, low = (_bfloat(seg, o) for o in i.operands[1:3])
        high = seg.do(f"shl {_R} {high}, {seg.splat('r', 16)}")
        seg.write(i.operands[0], seg.do(f"or {_R} {high}, {low}"), "r")
    elif (to, source) == ("e4m3x2", "f32") and "satfinite" in i.parts:
        high, low = (_e4m3(seg, o) for o in i.operands[1:3])
        high = seg.do(f"shl {_R} {high}, {seg.splat('r', 8)}")
        seg.write(i.operands[0], seg.do(f"or {_R} {high}, {low}"), "r")
    elif (to, source) == ("f32", "f32") and "sat" in i.parts:
        a = seg.float(i.operands[1])
        out = seg.call(F32, "llvm.maxnum.v32f32", (F32, a), (F32, "zeroinitializer"))
        out = seg.call(F32, "llvm.minnum.v32f32", (F32, out), (F32, "splat (float 1.0)"))
        seg.write_float(i.operands[0], out)
    elif to == "f32" and source in ("s32", "u32"):
        value = seg.read(i.operands[1], "r")
        seg.write_float(i.operands[0], seg.do(f"{source[0]}itofp {_R} {value} to {F32}"))
    elif source == "f32" and to in ("s32", "u32") and "rzi" in i.parts:
        seg.intrinsics.add(f"declare {_R} @llvm.fpto{to[0]}i.sat.v32i32.v32f32({F32})")
        out = seg.do(f"call {_R} @llvm.fpto{to[0]}i.sat.v32i32.v32f32({F32} {seg.float(i.operands[1])})")
        seg.write(i.operands[0], out, "r")
    else:
        raise UnknownInstructionError(str(i))


def _bfloat(seg: Segment, operand: str) -> str:
    """Upper half of a float32, rounded to nearest even; every NaN becomes one."""
    bits = seg.read(operand, "r")
    odd = seg.do(f"and {_R} {seg.do(f'lshr {_R} {bits}, ' + seg.splat('r', 16))}, {seg.splat('r', 1)}")
    up = seg.do(f"add {_R} {bits}, {seg.do(f'add {_R} {odd}, ' + seg.splat('r', 0x7FFF))}")
    out = seg.do(f"lshr {_R} {up}, {seg.splat('r', 16)}")
    return _unless_nan(seg, bits, out, 0x7FFF)


def _unless_nan(seg: Segment, bits: str, value: str, otherwise: int) -> str:
    size = seg.do(f"and {_R} {bits}, {seg.splat('r', 0x7FFFFFFF)}")
    nan = seg.do(f"icmp ugt {_R} {size}, {seg.splat('r', 0x7F800000)}")
    return seg.do(f"select <32 x i1> {nan}, {_R} {seg.splat('r', otherwise)}, {_R} {value}")


def _e4m3(seg: Segment, operand: str) -> str:
    """Nearest even FP8 E4M3, at most 448; NaN stays NaN."""
    bits = seg.read(operand, "r")
    sign = seg.do(f"lshr {_R} {bits}, {seg.splat('r', 24)}")
    sign = seg.do(f"and {_R} {sign}, {seg.splat('r', 0x80)}")
    size = seg.do(f"and {_R} {bits}, {seg.splat('r', 0x7FFFFFFF)}")
    size = seg.call(_R, "llvm.umin.v32i32", (_R, size), (_R, seg.splat("r", float_bits(448.0))))
    odd = seg.do(f"and {_R} {seg.do(f'lshr {_R} {size}, ' + seg.splat('r', 20))}, {seg.splat('r', 1)}")
    up = seg.do(f"add {_R} {size}, {seg.do(f'add {_R} {odd}, ' + seg.splat('r', 0x7FFFF))}")
    normal = seg.do(f"sub {_R} {seg.do(f'lshr {_R} {up}, ' + seg.splat('r', 20))}, {seg.splat('r', 120 << 3)}")
    # Below 2^-6 the steps are 2^-9: adding 2^14 rounds to them.
    plain = seg.do(f"bitcast {_R} {size} to {F32}")
    shifted = seg.do(f"fadd {F32} {plain}, splat (float 16384.0)")
    small = seg.do(f"and {_R} {seg.do(f'bitcast {F32} {shifted} to {_R}')}, {seg.splat('r', 0xF)}")
    tiny = seg.do(f"icmp ult {_R} {size}, {seg.splat('r', float_bits(2.0**-6))}")
    out = seg.do(f"select <32 x i1> {tiny}, {_R} {small}, {_R} {normal}")
    out = seg.do(f"or {_R} {out}, {sign}")
    return _unless_nan(seg, bits, out, 0x7F)


@rule("setp")
def compare(seg: Segment, i: Instruction) -> None:
    """Comparison, possibly joined with another predicate."""
    if type_of(i.parts)[0] in "bsu":
        out = integer_compare(seg, i)
    elif i.parts[-1] == "f32":
        a, b = (seg.float(o) for o in i.operands[1:3])
        how = i.parts[1]
        unordered = how.endswith("u") and how[:-1] in _COMPARE
        out = seg.do(f"fcmp {'u' if unordered else 'o'}{_COMPARE[how[:-1] if unordered else how]} {F32} {a}, {b}")
    else:
        raise UnknownInstructionError(str(i))
    joined = out
    if len(i.operands) > 3:
        joined = seg.do(f"{i.parts[2]} <32 x i1> {out}, {seg.read(i.operands[3], 'p')}")
    names = i.operands[0].split("|")
    seg.write(names[0], joined, "p")
    if len(names) > 1:
        if joined is not out:
            raise UnknownInstructionError(str(i))
        seg.write(names[1], seg.do(f"xor <32 x i1> {out}, splat (i1 1)"), "p")
