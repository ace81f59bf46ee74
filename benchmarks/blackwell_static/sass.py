"""Reads the SASS of a kernel: instruction counts, and whether its main loops touch local memory."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from functools import cache
from importlib.util import find_spec
from pathlib import Path

COUNTED = re.compile(r"UTCQMMA|UTCBAR|UTMALDG|UBLKCP|LDGSTS|LDTM|UTCATOMSWS|USETMAXREG|FFMA|LDL|STL|ACQBULK|PREEXIT")
WORK = ("LDTM", "UTCQMMA", "UTMALDG", "LDGSTS")
"""A main loop is an innermost loop with one of these: promotion, MMA, copies."""
INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+\s+)?([A-Z][A-Za-z0-9_.]+)([^;]*);")
LABEL = re.compile(r"^\s*\.(L_x_\d+):")
_CONTROL = re.compile(r"^\s*/\* 0x([0-9a-f]{16}) \*/\s*$")

Instruction = tuple[str, str, int]
"""Opcode, operands, control bits."""

Block = tuple[list[str], list[str]]
"""Opcodes of a basic block, and the labels that follow it."""


@cache
def disassembler() -> str:
    """Path of nvdisasm: on PATH, or in the PyPI package nvidia-cuda-nvdisasm.

    Raises:
        RuntimeError: It is in neither place.
    """
    found = shutil.which("nvdisasm")
    spec = find_spec("nvidia")
    for root in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(root).glob("*/bin/nvdisasm")):
            found = str(path)
    if found is None:
        raise RuntimeError("nvdisasm is missing; pip install 'nvidia-cuda-nvdisasm>=13.4'")
    return found


def kernels(cubin: Path, *options: str) -> dict[str, str]:
    """SASS of every kernel in a cubin; ``options`` are nvdisasm's, as ``-hex`` for the encodings."""
    done = subprocess.run([disassembler(), "-c", *options, str(cubin)], capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in done.stdout.splitlines():
        section = re.match(r"\s*\.section\s+\.text\.([\w$]+)", line)
        if section:
            lines = found.setdefault(section[1], [])
        lines.append(line)
    return {name: "\n".join(lines) for name, lines in found.items()}


def kernels_below(folder: Path, *options: str) -> dict[str, str]:
    """SASS of every kernel in the cubins of a folder."""
    return {name: text for cubin in sorted(folder.glob("*.cubin")) for name, text in kernels(cubin, *options).items()}


def instructions(text: str) -> tuple[list[Instruction], dict[str, int]]:
    """Instructions, and where labels point; ``text`` has the encodings (``nvdisasm -c -hex``)."""
    code: list[Instruction] = []
    at: dict[str, int] = {}
    for line in text.splitlines():
        if label := LABEL.match(line):
            at[label[1]] = len(code)
        elif found := INSTRUCTION.search(line):
            code.append((found[2], found[3], 0))
        elif (control := _CONTROL.match(line)) and code:
            code[-1] = (*code[-1][:2], int(control[1], 16))
    return code, at


def counts(text: str) -> dict[str, int]:
    """How often each counted opcode occurs."""
    opcodes = (m[2] for m in INSTRUCTION.finditer(text))
    return dict(sorted(Counter(o for o in opcodes if COUNTED.match(o)).items()))


def blocks(text: str) -> dict[str, Block]:
    """Basic blocks by label; a block without one gets a number."""
    found: dict[str, Block] = {}
    name = "entry"
    opcodes: list[str] = []
    for line in text.splitlines():
        label, instruction = LABEL.match(line), INSTRUCTION.search(line)
        if label:
            found[name] = (opcodes, [label[1]])
            name, opcodes = label[1], []
        if not instruction:
            continue
        opcodes.append(instruction[2])
        target = re.search(r"\.(L_x_\d+)", instruction[3])
        ends = instruction[2].split(".")[0] in ("BRA", "EXIT", "RET")
        if ends:
            # ``BRA.U UP0`` and ``@P0 BRA`` fall through, a bare one does not.
            conditional = bool(instruction[1]) or instruction[2].startswith("BRA.U")
            following = f"after{len(found)}"
            found[name] = (opcodes, ([target[1]] if target else []) + ([following] if conditional else []))
            name, opcodes = following, []
    found[name] = (opcodes, [])
    return found


def _components(nodes: set[str], edges: dict[str, list[str]]) -> list[set[str]]:
    """Strongly connected components with a cycle."""
    order: list[str] = []
    seen: set[str] = set()
    for start in nodes:
        stack = [(start, iter(edges[start]))] if start not in seen else []
        seen.add(start)
        while stack:
            node, following = stack[-1]
            step = next((n for n in following if n in nodes and n not in seen), None)
            if step is None:
                order.append(node)
                stack.pop()
            else:
                seen.add(step)
                stack.append((step, iter(edges[step])))
    back: dict[str, list[str]] = {n: [] for n in nodes}
    for node in nodes:
        for following in edges[node]:
            if following in nodes:
                back[following].append(node)
    left = set(nodes)
    found = []
    for node in reversed(order):
        part, stack_ = set(), [node] if node in left else []
        while stack_:
            at = stack_.pop()
            if at in left:
                left.discard(at)
                part.add(at)
                stack_ += [n for n in back[at] if n in left]
        if len(part) > 1 or any(n in edges[n] for n in part):
            found.append(part)
    return found


def main_loops(text: str) -> list[list[str]]:
    """Opcodes of every innermost loop that does the kernel's work."""
    graph = blocks(text)
    edges = {name: [n for n in following if n in graph] for name, (_, following) in graph.items()}

    def works(part: set[str]) -> bool:
        return any(o.startswith(WORK) for n in part for o in graph[n][0])

    def innermost(nodes: set[str]) -> list[set[str]]:
        found = []
        for part in filter(works, _components(nodes, edges)):
            heads = {n for n in part if any(n in edges[m] for m in graph if m not in part)}
            inner = innermost(part - heads) if heads else []
            found += inner or [part]
        return found

    return [[o for n in sorted(part) for o in graph[n][0]] for part in innermost(set(graph))]


def local_in_main_loops(text: str) -> int:
    """Local memory instructions in the main loops."""
    return sum(o.startswith(("LDL", "STL")) for loop in main_loops(text) for o in loop)
