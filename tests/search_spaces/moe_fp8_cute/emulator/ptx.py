"""A reader of PTX: the kernels of a module as flat lists of instructions with all names resolved."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

DYNAMIC_SMEM = 1024
"""Shared memory address at which the kernels' dynamic allocation begins."""


@dataclass
class Instruction:
    """``guard``: (predicate register, wanted value) or None. ``operands``: texts, vectors as tuples of texts."""

    opcode: str
    operands: list
    guard: tuple[str, bool] | None = None
    parts: tuple[str, ...] = ()
    rule: Callable | None = None

    def __post_init__(self):
        self.parts = tuple(p for p in self.opcode.split(".") if p)


@dataclass
class Kernel:
    """``labels``: position of each label in ``code``. ``parameters``: byte sizes in order."""

    name: str
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)


def read(text: str) -> dict[str, Kernel]:
    """Kernels of a PTX module by name."""
    text = re.sub(r"//[^\n]*", "", text)
    found = {}
    for match in re.finditer(r"\.entry\s+([\w$]+)\s*\(([^)]*)\)([^{]*)\{", text):
        kernel = Kernel(match[1])
        for size_of in re.finditer(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?", match[2]):
            kind, name, count = size_of.groups()
            kernel.parameters[name] = int(count) if count else int(re.sub(r"\D", "", kind)) // 8
        _body(kernel, text, match.end())
        found[kernel.name] = kernel
    return found


def _body(kernel: Kernel, text: str, at: int) -> None:
    """Statements up to the closing brace; names that an inner block declares are made unique."""
    scopes: list[tuple[int, set[str]]] = [(0, set())]
    blocks = 0
    while True:
        at = re.compile(r"\s*").match(text, at).end()
        if text[at] == "{":
            blocks += 1
            scopes.append((blocks, _declared(text, at + 1)))
            at += 1
        elif text[at] == "}":
            scopes.pop()
            at += 1
            if not scopes:
                return
        elif label := re.compile(r"([\w$]+)\s*:(?!:)").match(text, at):
            kernel.labels[_resolve(label[1], scopes)] = len(kernel.code)
            at = label.end()
        else:
            end = text.index(";", at)
            statement = text[at:end].strip()
            at = end + 1
            if statement and not statement.startswith("."):
                kernel.code.append(_instruction(statement, scopes))


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


def _resolve(name: str, scopes) -> str:
    for number, names in reversed(scopes[1:]):
        if name in names:
            return f"{name}@{number}"
    return name


def _instruction(statement: str, scopes) -> Instruction:
    guard = None
    if statement.startswith("@"):
        text, statement = re.match(r"@(!?\S+)\s+(.*)", statement, re.S).groups()
        guard = (_resolve(text.lstrip("!"), scopes), not text.startswith("!"))
    opcode, _, rest = statement.partition(" ") if " " in statement else statement.partition("\t")
    opcode, extra = opcode.split()[0], " ".join(opcode.split()[1:])
    return Instruction(opcode, [_operand(o, scopes) for o in _split(f"{extra} {rest}")], guard)


def _split(text: str) -> list[str]:
    """At commas outside brackets and braces."""
    out, depth, current = [], 0, ""
    for c in text:
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(c, 0)
        if c == "," and depth == 0:
            out.append(current.strip())
            current = ""
        else:
            current += c
    return [o for o in (*out, current.strip()) if o]


def _operand(text: str, scopes):
    """A vector becomes a tuple, an address the tuple ("[]", parts ...)."""
    if text.startswith("{"):
        return tuple(_operand(part, scopes) for part in _split(text[1:-1]))
    if text.startswith("["):
        return ("[]", *(_operand(part, scopes) for part in _split(text[1:-1])))
    return re.sub(r"[A-Za-z_$%][\w$%.]*", lambda m: _resolve(m[0], scopes), text)
