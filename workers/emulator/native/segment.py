"""Straight-line code of a kernel as a function in LLVM IR: 32 lanes at a time, registers in a warp's block.

Inside a segment values are LLVM values; at its end the registers that other code reads are written back in the
active lanes. Rules for the instructions are in integers.py and floats.py.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import UnknownInstructionError
from ..ptx import Instruction
from ..registers import PARAMETERS, WARP, Registers

VECTOR = {"p": "<32 x i1>", "h": "<32 x i16>", "r": "<32 x i32>", "d": "<32 x i64>"}
ELEMENT = {"p": "i1", "h": "i16", "r": "i32", "d": "i64"}
BITS = {"p": 1, "h": 16, "r": 32, "d": 64}
LETTER = {1: "p", 8: "h", 16: "h", 32: "r", 64: "d"}
F32, F64, F32X2 = "<32 x float>", "<32 x double>", "<64 x float>"
Rule = Callable[["Segment", Instruction], None]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Decorator: register the translation of an instruction."""

    def add(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return add


class Segment:
    """A function under construction.

    Args:
        name: Of the function.
        registers: Of the kernel.
    """

    def __init__(self, name: str, registers: Registers):
        self.name, self.registers = name, registers
        self.lines: list[str] = []
        self.intrinsics: set[str] = set()
        self.needed: set[str] = set()
        """Registers whose earlier values the segment reads."""
        self._values: dict[str, str] = {}
        self._written: set[str] = set()
        self._count = 0
        self._guard: str | None = None

    def do(self, text: str) -> str:
        """Define a new value; ``text`` is the right side of its definition."""
        self._count += 1
        self.lines.append(f"%v{self._count} = {text}")
        return f"%v{self._count}"

    def call(self, result: str, function: str, *arguments: tuple[str, str]) -> str:
        """Call an intrinsic with (type, value) pairs."""
        self.intrinsics.add(f"declare {result} @{function}({', '.join(t for t, _ in arguments)})")
        return self.do(f"call {result} @{function}({', '.join(f'{t} {v}' for t, v in arguments)})")

    def translate(self, i: Instruction) -> None:
        """Append the translation of one instruction."""
        self._guard = None
        if i.guard is not None:
            flag = self.read(i.guard[0], "p")
            self._guard = flag if i.guard[1] else self.do(f"xor {VECTOR['p']} {flag}, splat (i1 1)")
        RULES[i.parts[0]](self, i)

    # Operands.

    def splat(self, letter: str, number: int) -> str:
        """A vector with the same constant in every lane."""
        number &= (1 << BITS[letter]) - 1
        return f"splat ({ELEMENT[letter]} {number})"

    def read(self, operand: str, letter: str) -> str:
        """The lanes of an operand as integers of a class."""
        if operand.startswith("!"):
            flag = self.read(operand[1:], "p")
            return self.do(f"xor {VECTOR['p']} {flag}, splat (i1 1)")
        known = self.registers.place(operand)
        if known is None:
            return self.splat(letter, self.registers.number(operand))
        value = self._values.get(operand)
        if value is None:
            value = self._values[operand] = self._load(operand, known[0])
            self.needed.add(operand)
        return self.resized(value, known[0], letter)

    def resized(self, value: str, have: str, want: str) -> str:
        """An integer vector of another width, zero-extended or truncated."""
        if have == want:
            return value
        if "p" in (have, want):
            raise UnknownInstructionError("a predicate where a number is wanted")
        how = "zext" if BITS[want] > BITS[have] else "trunc"
        return self.do(f"{how} {VECTOR[have]} {value} to {VECTOR[want]}")

    def _load(self, name: str, letter: str) -> str:
        at = self.do(f"getelementptr i8, ptr %w, i64 {self.registers.offset(name)}")
        if letter != "p":
            return self.do(f"load {VECTOR[letter]}, ptr {at}, align 32")
        flags = self.do(f"load <32 x i8>, ptr {at}, align 32")
        return self.do(f"trunc <32 x i8> {flags} to <32 x i1>")

    def write(self, operand: str, value: str, letter: str) -> None:
        """Give a register a value of a class in the lanes whose guard holds."""
        if operand == "_":
            return
        known = self.registers.place(operand)
        if known is None:
            raise UnknownInstructionError(f"{operand!r} is no register")
        value = self.resized(value, letter, known[0])
        if self._guard is not None:
            old = self.read(operand, known[0])
            vector = VECTOR[known[0]]
            value = self.do(f"select <32 x i1> {self._guard}, {vector} {value}, {vector} {old}")
        self._values[operand] = value
        self._written.add(operand)

    # Floats.

    def float(self, operand: str) -> str:
        """The lanes of an operand as float32."""
        return self.do(f"bitcast {VECTOR['r']} {self.read(operand, 'r')} to {F32}")

    def pair(self, operand: str) -> str:
        """The lanes of an operand as two float32 each."""
        return self.do(f"bitcast {VECTOR['d']} {self.read(operand, 'd')} to {F32X2}")

    def write_float(self, operand: str, value: str, flush: bool = False) -> None:
        """Give a register a float32; ``flush`` turns subnormals into zeros of their sign."""
        bits = self.do(f"bitcast {F32} {value} to {VECTOR['r']}")
        if flush:
            bits = self.flushed(bits)
        self.write(operand, bits, "r")

    def flushed(self, bits: str) -> str:
        """Bits of float32 without subnormals."""
        exponent = self.do(f"and {VECTOR['r']} {bits}, {self.splat('r', 0x7F800000)}")
        tiny = self.do(f"icmp eq {VECTOR['r']} {exponent}, {self.splat('r', 0)}")
        sign = self.do(f"and {VECTOR['r']} {bits}, {self.splat('r', 0x80000000)}")
        return self.do(f"select <32 x i1> {tiny}, {VECTOR['r']} {sign}, {VECTOR['r']} {bits}")

    # The whole function.

    def text(self, is_read_elsewhere: Callable[[str], bool]) -> str:
        """The function's text; registers that no other code reads are not written back."""
        out = [name for name in sorted(self._written) if is_read_elsewhere(name)]
        if out:
            flags = self.do("load <32 x i8>, ptr %w, align 32")
            mask = self.do(f"trunc <32 x i8> {flags} to <32 x i1>")
            for name in out:
                self._store(name, mask)
        return f"define void @{self.name}(ptr %w) {{\n" + "\n".join(self.lines) + "\nret void\n}\n"

    def _store(self, name: str, mask: str) -> None:
        letter, _ = self.registers.names[name]
        vector, at = VECTOR[letter], self.registers.offset(name)
        value, old = self._values[name], self._load(name, letter)
        value = self.do(f"select <32 x i1> {mask}, {vector} {value}, {vector} {old}")
        where = self.do(f"getelementptr i8, ptr %w, i64 {at}")
        if letter == "p":
            value, vector = self.do(f"zext <32 x i1> {value} to <32 x i8>"), "<32 x i8>"
        self.lines.append(f"store {vector} {value}, ptr {where}, align 32")


def type_of(parts: tuple[str, ...]) -> tuple[str, int]:
    """(kind, bits) of the last type suffix: kind is b, s, u or f.

    Raises:
        UnknownInstructionError: There is none.
    """
    for part in reversed(parts):
        if part in _PACKED:
            return _PACKED[part]
        if part[:1] in "bsuf" and part[1:] in ("8", "16", "32", "64", "128"):
            return part[0], int(part[1:])
    raise UnknownInstructionError(f"no type in {'.'.join(parts)}")


_PACKED = {
    "pred": ("b", 1), "bf16": ("bf", 16), "bf16x2": ("bf", 32), "f16x2": ("h", 32), "f32x2": ("f2", 64),
    "e4m3x2": ("e", 16),
}  # fmt: skip


def is_native(i: Instruction) -> bool:
    """Whether a rule translates it. Loads are, of parameters that are not addresses."""
    return i.parts[0] in RULES and (i.parts[0] != "ld" or "param" in i.parts)


@rule("ld")
def parameter(seg: Segment, i: Instruction) -> None:
    """Parts of the kernel's parameters: the block's first bytes hold the address of their bytes."""
    targets = i.operands[0] if isinstance(i.operands[0], tuple) else (i.operands[0],)
    bits = type_of(i.parts)[1]
    name, _, offset = i.operands[1][1].partition("+")
    place = (seg.registers.parameters[name] - PARAMETERS) + int(offset or 0)
    slot = seg.do(f"getelementptr i8, ptr %w, i64 {WARP}")
    base = seg.do(f"load ptr, ptr {slot}, align 8")
    for n, target in enumerate(targets):
        at = seg.do(f"getelementptr i8, ptr {base}, i64 {place + n * bits // 8}")
        scalar = seg.do(f"load i{bits}, ptr {at}, align 1")
        letter = LETTER[bits]
        if bits == 8:
            scalar = seg.do(f"zext i8 {scalar} to i16")
        one = seg.do(f"insertelement {VECTOR[letter]} poison, {ELEMENT[letter]} {scalar}, i32 0")
        value = seg.do(f"shufflevector {VECTOR[letter]} {one}, {VECTOR[letter]} poison, <32 x i32> zeroinitializer")
        seg.write(target, value, letter)
