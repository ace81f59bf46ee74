"""A stranger's Python file: its top-level statements, what they need, and edits of its text by position.

Nothing is printed anew from a syntax tree, so that what stays looks as its author wrote it.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from tuner.errors import UsageError

TODO = "TODO(tuner init)"
"""Starts every remark that is left for the author."""


@dataclass(frozen=True)
class Unit:
    """Top-level statements that share lines; mostly one.

    Attributes:
        first: Its first line that is no comment, with decorators.
        last: Its last line.
        binds: Names that it defines.
        needs: Names that it reads, except in what is taken out.
    """

    nodes: tuple[ast.stmt, ...]
    first: int
    last: int
    binds: frozenset[str]
    needs: frozenset[str]

    @property
    def is_kept_always(self) -> bool:
        """Whether it is a docstring or a ``__future__`` import."""
        node = self.nodes[0]
        is_text = (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        )
        return is_text or (isinstance(node, ast.ImportFrom) and node.module == "__future__")


@dataclass
class SourceFile:
    """One file of a kernel.

    Args:
        path: Its path in the space.
        text: Its text.
    """

    path: str
    text: str
    _edits: list[tuple[int, int, str]] = field(default_factory=list)
    _removed: list[ast.AST] = field(default_factory=list)
    _units: list[Unit] | None = None

    def __post_init__(self) -> None:
        self.text = self.text.replace("\r\n", "\n")
        if not self.text.endswith("\n"):
            self.text += "\n"

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax tree.

        Raises:
            UsageError: It is not Python.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return ast.parse(self.text)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            line = getattr(error, "lineno", None) or 0
            raise UsageError(f"{self.path}, line {line}: {getattr(error, 'msg', error)}") from error

    @cached_property
    def _line_starts(self) -> list[int]:
        starts, at = [0], 0
        for line in self.text.encode().splitlines(keepends=True):
            at += len(line)
            starts.append(at)
        return starts

    def offset(self, line: int, column: int) -> int:
        """Position in bytes of a line (from 1) and a column in bytes, as syntax trees give them."""
        return self._line_starts[line - 1] + column

    def start(self, node: ast.AST) -> int:
        """Position of a node's first byte."""
        return self.offset(node.lineno, node.col_offset)  # type: ignore[attr-defined]

    def end(self, node: ast.AST) -> int:
        """Position behind a node's last byte."""
        return self.offset(node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]

    @cached_property
    def _lines(self) -> list[str]:
        return self.text.split("\n")

    def line(self, number: int) -> str:
        """A line without its end."""
        return self._lines[number - 1]

    def snippet(self, node: ast.AST) -> str:
        """The text of a node."""
        return self.text.encode()[self.start(node) : self.end(node)].decode()

    def replace(self, begin: int, end: int, text: str) -> None:
        """Put a text in the place of the bytes from ``begin`` up to ``end``."""
        self._edits.append((begin, end, text))

    def remove_lines(self, first: int, last: int) -> None:
        """Take lines out."""
        self.replace(self.offset(first, 0), self._line_starts[last], "")

    def remove(self, node: ast.AST, first: int) -> None:
        """Take out lines from ``first`` to a node's end; what the node reads is not needed any more."""
        self.remove_lines(first, node.end_lineno)  # type: ignore[attr-defined]
        self._removed.append(node)
        self._units = None

    def is_removed(self, node: ast.AST) -> bool:
        """Whether a node lies in what is taken out."""
        at = self.start(node)
        return any(self.start(gone) <= at < self.end(gone) for gone in self._removed)

    def insert_line(self, before: int, text: str) -> None:
        """Put lines before a line."""
        at = self.offset(before, 0)
        self.replace(at, at, text + "\n")

    def units(self) -> list[Unit]:
        """Its top-level statements."""
        if self._units is None:
            self._units = self._grouped()
        return self._units

    def _grouped(self) -> list[Unit]:
        groups: list[list[ast.stmt]] = []
        for node in self.tree.body:
            if groups and _first_line(node) <= (groups[-1][-1].end_lineno or 0):
                groups[-1].append(node)
            else:
                groups.append([node])
        gone = set(map(id, self._removed))
        return [
            Unit(
                tuple(nodes),
                _first_line(nodes[0]),
                nodes[-1].end_lineno or 0,
                frozenset(name for node in nodes for name in bound_names(node)),
                frozenset(name for node in nodes for name in free_names(node, gone)),
            )
            for nodes in groups
        ]

    def edited(self, kept: Collection[int] | None = None) -> str:
        """Its text after all edits.

        Args:
            kept: First lines of the units that stay, with the comments before them; None for all.
        """
        edits = list(self._edits)
        if kept is not None:
            before = 0
            for number, unit in enumerate(self.units()):
                begin = before if number or unit.first == 1 else unit.first - 1
                if unit.first not in kept:
                    edits.append((self._line_starts[begin], self._line_starts[unit.last], ""))
                before = unit.last
            edits.append((self._line_starts[before], len(self.text.encode()), ""))
        return _applied(self.text.encode(), edits).decode()


def _applied(data: bytes, edits: list[tuple[int, int, str]]) -> bytes:
    """The data with all edits; one that lies in another one's range is lost."""
    parts, at = [], 0
    for begin, end, text in sorted(edits, key=lambda e: (e[0], -e[1])):
        if begin < at:
            continue
        parts += [data[at:begin], text.encode()]
        at = end
    return b"".join([*parts, data[at:]])


def _first_line(node: ast.stmt) -> int:
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(d.lineno for d in decorators)])


_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def free_names(node: ast.AST, gone: Collection[int] = ()) -> set[str]:
    """Names that a node reads from the scope around it, without what lies in nodes whose identity is in ``gone``."""
    if id(node) in gone:
        return set()
    if isinstance(node, ast.Name):
        return {node.id}
    children = [free_names(child, gone) for child in ast.iter_child_nodes(node)]
    if isinstance(node, _COMPREHENSIONS):
        own = {n.id for g in node.generators for n in ast.walk(g.target) if isinstance(n, ast.Name)}
        return set().union(*children) - own
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return set().union(*children)
    body = node.body if isinstance(node.body, list) else [node.body]
    inside = set().union(*(free_names(child, gone) for child in body))
    around = [*node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)]
    if not isinstance(node, ast.Lambda):
        annotated = [a.annotation for a in ast.walk(node.args) if isinstance(a, ast.arg) and a.annotation]
        around += [*node.decorator_list, *annotated, *([node.returns] if node.returns else [])]
    own = {a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)} | set(_local_names(body))
    return set().union(*(free_names(child, gone) for child in around)) | (inside - own)


def _local_names(body: Sequence[ast.AST]) -> Iterator[str]:
    """Names that a function's body binds for itself."""
    shared = {name for n in body for child in ast.walk(n) if isinstance(child, ast.Global) for name in child.names}
    todo = list(body)
    while todo:
        node = todo.pop()
        name = None
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((a.asname or a.name).split(".")[0] for a in node.names)
        if name is not None and name not in shared:
            yield name
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            todo += ast.iter_child_nodes(node)


def bound_names(node: ast.stmt) -> Iterator[str]:
    """Names that a top-level statement defines or changes."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
        return
    for child in ast.walk(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield from ((a.asname or a.name).split(".")[0] for a in child.names)
        elif isinstance(child, ast.FunctionDef | ast.ClassDef):
            yield child.name
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id
        elif isinstance(child, ast.Subscript | ast.Attribute) and isinstance(child.ctx, ast.Store):
            base = child.value
            while isinstance(base, ast.Subscript | ast.Attribute):
                base = base.value
            if isinstance(base, ast.Name):
                yield base.id
        elif isinstance(child, ast.Call) and isinstance(child.func, ast.Attribute) and not isinstance(node, ast.Assign):
            # LIST.append(...), and DICT.update(...): they belong to the name that they change.
            changed = [child.func.value] if child.func.attr in _CHANGES else []
            yield from (n.id for n in changed if isinstance(n, ast.Name))


_CHANGES = frozenset(
    (
        "append",
        "extend",
        "insert",
        "update",
        "add",
        "setdefault",
        "pop",
        "remove",
        "discard",
        "clear",
        "sort",
        "reverse",
    )
)
