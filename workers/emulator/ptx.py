"""A reader of PTX: the kernels of a module as flat lists of instructions with all names resolved."""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass, field
from typing import Any

DYNAMIC_SMEM = 1024
"""Shared memory address at which the kernels' dynamic allocation begins."""


@dataclass
class Instruction:
    """``guard``: (predicate register, wanted value) or None. ``operands``: texts, vectors as tuples of texts."""

    opcode: str
    operands: list[Any]
    guard: tuple[str, bool] | None = None
    parts: tuple[str, ...] = ()
    line: int = 0
    """Its line in the module."""

    def __post_init__(self) -> None:
        self.parts = tuple(p for p in self.opcode.split(".") if p)

    def __str__(self) -> str:
        guard = "" if self.guard is None else f"@{'' if self.guard[1] else '!'}{self.guard[0]} "
        return f"{guard}{self.opcode} {', '.join(map(_shown, self.operands))}"[:160]


def _shown(operand: Any) -> str:
    """An operand in PTX notation."""
    if not isinstance(operand, tuple):
        return str(operand)
    if operand and operand[0] == "[]":
        return f"[{', '.join(map(_shown, operand[1:]))}]"
    return "{" + ", ".join(map(_shown, operand)) + "}"


@dataclass
class Kernel:
    """``labels``: position of each label in ``code``. ``parameters``: byte sizes in order. ``types``: register class of
    a name, or of all names that begin so."""

    name: str
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)


def read(text: str) -> dict[str, Kernel]:
    """Parse a PTX module; returns its kernels by name."""
    text = re.sub(r"//[^\n]*", "", text)
    starts = [m.start() for m in re.finditer("\n", text)]
    found = {}
    for match in re.finditer(r"\.entry\s+([\w$]+)\s*\(([^)]*)\)([^{]*)\{", text):
        kernel = Kernel(match[1])
        for size_of in re.finditer(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?", match[2]):
            kind, name, count = size_of.groups()
            kernel.parameters[name] = int(count) if count else int(re.sub(r"\D", "", kind)) // 8
        _body(kernel, text, match.end(), starts)
        found[kernel.name] = kernel
    return found


_SPACE, _LABEL = re.compile(r"\s*"), re.compile(r"([\w$]+)\s*:(?!:)")
_Scopes = list[tuple[int, set[str]]]


def _body(kernel: Kernel, text: str, at: int, starts: list[int]) -> None:
    """Statements up to the closing brace; names that an inner block declares are made unique."""
    scopes: _Scopes = [(0, set())]
    blocks = 0
    while True:
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
        if text[at] == "{":
            blocks += 1
            scopes.append((blocks, _declared(text, at + 1)))
            at += 1
        elif text[at] == "}":
            scopes.pop()
            at += 1
            if not scopes:
                return
        elif label := _LABEL.match(text, at):
            kernel.labels[_resolve(label[1], scopes)] = len(kernel.code)
            at = label.end()
        else:
            end = text.index(";", at)
            statement = text[at:end].strip()
            if statement.startswith(".reg"):
                _declare(kernel, statement, scopes)
            elif statement and not statement.startswith("."):
                kernel.code.append(_instruction(statement, scopes))
                kernel.code[-1].line = bisect.bisect_left(starts, at) + 1
            at = end + 1


def _declare(kernel: Kernel, statement: str, scopes: _Scopes) -> None:
    """Register classes: p for predicates, h, r and d for 16, 32 and 64 bits."""
    _, kind, names = statement.split(None, 2)
    bits = re.sub(r"\D", "", kind)
    letter = "p" if kind == ".pred" else {"8": "h", "16": "h", "32": "r", "64": "d"}.get(bits)
    if letter is None:
        raise ValueError(f"registers of type {kind} are unknown to the emulator")
    for name in names.split(","):
        kernel.types[_resolve(name.strip().partition("<")[0], scopes)] = letter


def _declared(text: str, at: int) -> set[str]:
    """Registers and labels that belong to the block that begins here."""
    end = at
    depth = 1
    while depth:
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        end += 1
    block = text[at:end]
    names = {n.strip() for regs in re.findall(r"\.reg\s+\.\w+\s+([^;<]+);", block) for n in regs.split(",")}
    return names | set(re.findall(r"(?:^|[\s;{}])([A-Za-z_$][\w$]*)\s*:(?!:)", block))


def _resolve(name: str, scopes: _Scopes) -> str:
    for number, names in reversed(scopes[1:]):
        if name in names:
            return f"{name}@{number}"
    return name


def _instruction(statement: str, scopes: _Scopes) -> Instruction:
    guard = None
    if statement.startswith("@"):
        text, statement = statement[1:].split(None, 1)
        guard = (_resolve(text.lstrip("!"), scopes), not text.startswith("!"))
    opcode, _, rest = statement.partition(" ") if " " in statement else statement.partition("\t")
    opcode, extra = opcode.split()[0], " ".join(opcode.split()[1:])
    return Instruction(opcode, [_operand(o, scopes) for o in _split(f"{extra} {rest}")], guard)


def _split(text: str) -> list[str]:
    """Split a text at the commas outside brackets and braces."""
    out, depth, current = [], 0, ""
    for c in text:
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(c, 0)
        if c == "," and depth == 0:
            out.append(current.strip())
            current = ""
        else:
            current += c
    return [o for o in (*out, current.strip()) if o]


def _operand(text: str, scopes: _Scopes) -> Any:
    """A vector becomes a tuple, an address the tuple ("[]", parts ...)."""
    if text.startswith("{"):
        return tuple(_operand(part, scopes) for part in _split(text[1:-1]))
    if text.startswith("["):
        return ("[]", *(_operand(re.sub(r"\s*\+\s*", "+", part), scopes) for part in _split(text[1:-1])))
    return re.sub(r"[A-Za-z_$%][\w$%.]*", lambda m: _resolve(m[0], scopes), text)
