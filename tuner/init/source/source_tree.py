"""The files that a kernel consists of, and what its launcher needs of each of them."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from tuner.errors import UsageError
from tuner.init.source.source_file import SourceFile, Unit

MOST_FOLLOWED = 12
"""Further files of the same project that imports are followed into."""
_MOST_FOLDERS_UP = 8


@dataclass(frozen=True)
class Missing:
    """A module that a file imports and that is neither installed here nor beside the file."""

    file: str
    line: int
    module: str
    names: tuple[str, ...]


class SourceTree:
    """Files of a kernel by their paths in the space; imports of the same project's files are followed.

    Args:
        files: Path in the space -> text.
        origin: Where the only file lies on disk, to follow its imports from; None if all files are given.
    """

    def __init__(self, files: Mapping[str, str], origin: Path | None = None) -> None:
        self.files = {path: SourceFile(path, text) for path, text in files.items()}
        self._is_whole = origin is None
        self._origin_of = dict.fromkeys(files, origin) if origin is not None else {}
        self._path_of = {origin.resolve(): path for path in files} if origin is not None else {}
        self.missing: dict[tuple[str, str], Missing] = {}
        self.kept: dict[str, set[int]] = {}
        """Path -> first lines of the units that are needed."""
        self._wanted: dict[str, set[str]] = {}

    def reach(self, path: str, name: str) -> None:
        """Note what a name of a file needs, in all files."""
        todo, seen = [(path, name)], set()
        while todo:
            here, wanted = todo.pop()
            if (here, wanted) in seen:
                continue
            seen.add((here, wanted))
            self._wanted.setdefault(here, set()).add(wanted)
            kept = self.kept.setdefault(here, set())
            for unit in self.files[here].units():
                if unit.is_kept_always or wanted == "*" or wanted in unit.binds:
                    kept.add(unit.first)
                if wanted == "*" or wanted in unit.binds:
                    todo += [(here, need) for need in unit.needs]
                    todo += self._imported(here, unit, wanted)

    def forget(self) -> None:
        """Forget what is needed."""
        self.kept.clear()
        self.missing.clear()
        self._wanted.clear()

    def reached(self, path: str) -> list[Unit]:
        """The units of a file that are needed; all of a whole project's."""
        units = self.files[path].units()
        return units if self._is_whole else [u for u in units if u.first in self.kept.get(path, ())]

    def texts(self) -> dict[str, str]:
        """Path -> text after all edits, of the files that are needed."""
        if self._is_whole:
            return {path: file.edited() for path, file in self.files.items()}
        return {path: self.files[path].edited(kept) for path, kept in self.kept.items()}

    def left_out(self) -> list[tuple[str, int, int, str]]:
        """File, first line, last line and names of what the launcher does not need."""
        if self._is_whole:
            return []
        found = []
        for path, kept in self.kept.items():
            for unit in self.files[path].units():
                if unit.first not in kept:
                    what = ", ".join(sorted(unit.binds)) or type(unit.nodes[0]).__name__
                    found.append((path, unit.first, unit.last, what))
        return found

    def file_of(self, here: str, node: ast.ImportFrom) -> str | None:
        """Path of the file that ``from X import ...`` in a file means, None if it is none of the project."""
        if self._is_whole:
            return self._file_given(here, node)
        origin = self._origin_of.get(here)
        found = None if origin is None else _file_on_disk(origin, node)
        return None if found is None else self._followed(found)

    def _file_given(self, here: str, node: ast.ImportFrom) -> str | None:
        parts = list(PurePosixPath(here).parts[:-1])
        parts = parts[: len(parts) - (node.level - 1)] if node.level else []
        base = "/".join((*parts, *(node.module or "").split("."))).rstrip("/")
        return next((p for p in (f"{base}.py", f"{base}/__init__.py") if p in self.files), None)

    def _followed(self, origin: Path) -> str | None:
        origin = origin.resolve()
        if origin in self._path_of:
            return self._path_of[origin]
        if len(self.files) > MOST_FOLLOWED:
            return None
        stem = origin.parent.name if origin.name == "__init__.py" else origin.stem
        path = free_name(stem, {*self.files, "config.py", "main.py"})
        try:
            file = SourceFile(path, origin.read_text(encoding="utf-8-sig"))
            _ = file.tree
        except (OSError, UnicodeDecodeError, UsageError):
            return None
        self.files[path], self._origin_of[path], self._path_of[origin] = file, origin, path
        return path

    def _imported(self, here: str, unit: Unit, wanted: str) -> Iterator[tuple[str, str]]:
        """What an import of a wanted name needs of another file. Notes what cannot be followed."""
        guarded = {id(n) for node in unit.nodes for n in _guarded(node)}
        for inner, is_local in _imports(unit):
            if isinstance(inner, ast.Import):
                for alias in inner.names if id(inner) not in guarded else ():
                    bound = (alias.asname or alias.name).split(".")[0]
                    if (is_local or bound == wanted) and not is_installed(alias.name):
                        self._is_missing(here, inner.lineno, alias.name, ())
                continue
            if not inner.level and is_installed(inner.module or ""):
                continue
            names = [a.name for a in inner.names if is_local or wanted in ("*", a.name, a.asname)]
            file = self.file_of(here, inner)
            for name in names:
                module = self._module(here, inner, name)
                if file is not None and (name == "*" or self._defines(file, name)):
                    yield file, name
                elif module is not None:  # its names are attributes, and may be any
                    yield module, "*"
                elif id(inner) not in guarded:
                    self._is_missing(here, inner.lineno, "." * inner.level + (inner.module or ""), (name,))

    def _module(self, here: str, node: ast.ImportFrom, name: str) -> str | None:
        """The file that an imported name is, where all files are given."""
        inside = ast.ImportFrom(f"{node.module}.{name}" if node.module else name, [], node.level)
        return self.file_of(here, inside) if self._is_whole else None

    def _defines(self, path: str, name: str) -> bool:
        return any(name in unit.binds for unit in self.files[path].units())

    def _is_missing(self, here: str, line: int, module: str, names: tuple[str, ...]) -> None:
        before = self.missing.get((here, module))
        both = tuple(dict.fromkeys((*(before.names if before else ()), *names)))
        self.missing[here, module] = Missing(here, before.line if before else line, module, both)

    def rewrite_imports(self) -> None:
        """Make imports of files that were followed relative, and take out names that are not needed."""
        if self._is_whole:
            return
        for path in list(self.kept):
            file = self.files[path]
            # What another file imports of this one by way of an import here is needed too.
            needed = {need for unit in self.reached(path) for need in unit.needs} | self._wanted[path]
            for node, is_local in (found for unit in self.reached(path) for found in _imports(unit)):
                if isinstance(node, ast.ImportFrom) and (node.level or not is_installed(node.module or "")):
                    other = self.file_of(path, node)
                    if other is not None:
                        _rewrite_import(file, node, other, None if is_local else needed)


def _imports(unit: Unit) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """The imports of a unit, and whether they are within a function, where all that they name is needed."""
    for node in unit.nodes:
        is_local = isinstance(node, ast.FunctionDef | ast.ClassDef)
        for inner in ast.walk(node):
            if isinstance(inner, ast.Import | ast.ImportFrom):
                yield inner, is_local


def _guarded(node: ast.AST) -> Iterator[ast.AST]:
    """What lies in a ``try`` whose author says what holds without a module."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Try):
            caught = {name for handler in inner.handlers for name in _names(handler.type)}
            if caught & {None, "ImportError", "ModuleNotFoundError", "Exception"}:
                yield from (n for child in inner.body for n in ast.walk(child))


def _names(caught: ast.expr | None) -> list[str | None]:
    return [None] if caught is None else [n.id for n in ast.walk(caught) if isinstance(n, ast.Name)]


def _rewrite_import(file: SourceFile, node: ast.ImportFrom, other: str, needed: set[str] | None) -> None:
    names = [a for a in node.names if needed is None or (a.asname or a.name) in needed] or node.names
    listed = ", ".join(a.name if a.asname is None else f"{a.name} as {a.asname}" for a in names)
    file.replace(file.start(node), file.end(node), f"from .{PurePosixPath(other).stem} import {listed}")


def free_name(stem: str, taken: set[str]) -> str:
    """A file name that is a Python module and not taken: ``03-matmul`` becomes ``matmul.py``."""
    name = re.sub(r"\W", "_", stem).strip("_0123456789") or "kernel"
    for suffix in ("", *map(str, range(2, 99))):
        if f"{name}{suffix}.py" not in taken:
            return f"{name}{suffix}.py"
    raise UsageError(f"no file name is free for {stem}")


def _file_on_disk(origin: Path, node: ast.ImportFrom) -> Path | None:
    parts = (node.module or "").split(".") if node.module else []
    if node.level:
        return _module_file(origin.parents[node.level - 1].joinpath(*parts))
    for folder in origin.parents[:_MOST_FOLDERS_UP]:
        found = _module_file(folder.joinpath(*parts))
        if found is not None:
            return found
    return None


def _module_file(base: Path) -> Path | None:
    return next((p for p in (base.with_name(f"{base.name}.py"), base / "__init__.py") if p.is_file()), None)


@cache
def is_installed(module: str) -> bool:
    """Whether a module's package can be imported here; nothing is imported to find out."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return True
    try:
        spec = importlib.util.find_spec(top) if top else None
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None and "site-packages" in Path(spec.origin).parts
