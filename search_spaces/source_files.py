"""Finds the files of a kernel's folder that belong to its Solution, and the names that a Python file defines."""

from __future__ import annotations

import ast
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from search_spaces.parameters import SpaceError

SUFFIXES = frozenset(
    f".{s}"
    for s in ("py", "pyi", "cu", "cuh", "c", "cc", "cpp", "cxx", "h", "hh", "hpp", "hxx", "inl", "ipp", "inc", "ptx")
)
"""Of source code. Other files count where ``sources`` names them: logs, libraries and reports lie beside kernels."""

_OTHER_FOLDERS = ("build", "dist", "node_modules", "tuner-out")
_DATASET_FOLDERS = ("definitions", "workloads", "solutions", "traces")
ANY = "*"
"""Stands for names that cannot be found by reading a file."""


def read_sources(folder: Path, patterns: Sequence[str], space_file: str) -> tuple[dict[str, str], list[str]]:
    """The texts of a Solution's files.

    Args:
        folder: The kernel's folder.
        patterns: Patterns of the files that belong to it; empty for all source code.
        space_file: Name of the file that describes the space, which is not a source.

    Returns:
        Path in the folder -> text; and the paths that were left out, folders with a slash at the end.

    Raises:
        SpaceError: A pattern leads out of the folder or matches nothing, or a file is not UTF-8 text.
    """
    left_out: list[str] = []
    if patterns:
        files = [file for pattern in patterns for file in _matching(folder, pattern, space_file)]
    else:
        files = list(_source_code(folder, space_file, left_out))
    return {file.relative_to(folder).as_posix(): _text(file, folder) for file in files}, left_out


def _matching(folder: Path, pattern: str, space_file: str) -> list[Path]:
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise SpaceError(f"'sources' has {pattern!r}; patterns are relative to the folder and stay inside it")
    try:
        found = sorted(folder.glob(pattern))
    except (ValueError, NotImplementedError, OSError) as error:
        raise SpaceError(f"'sources' has {pattern!r}, which is no pattern: {error}") from error
    files = [
        f
        for f in found
        if f.is_file()
        and not _is_hidden(f.relative_to(folder))
        and f != folder / space_file
        and not _exported(f, folder)
    ]
    if not files:
        raise SpaceError(f"'sources' has {pattern!r}, which matches no file")
    return files


def _exported(file: Path, folder: Path) -> bool:
    """Whether a file is what a sweep wrote there: a part of a folder of definitions and Solutions, at or below ours."""
    above = [p for p in file.parents if p.is_relative_to(folder)]
    places = [p for p in above if (p / "definitions").is_dir() and (p / "solutions").is_dir()]
    return any(file.relative_to(p).parts[0] in (*_DATASET_FOLDERS, "blob") for p in places)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)


def _source_code(folder: Path, space_file: str, left_out: list[str]) -> Iterator[Path]:
    """All source code below the folder, sorted, without folders that hold something else."""
    for parent, folders, files in os.walk(folder):
        here = Path(parent)
        visible = sorted(name for name in folders if not _is_hidden(Path(name)))
        other = [name for name in visible if _holds_something_else(here / name, space_file)]
        folders[:] = [name for name in visible if name not in other]
        left_out += [f"{(here / name).relative_to(folder).as_posix()}/" for name in other]
        for name in sorted(files):
            path = (here / name).relative_to(folder)
            if _is_hidden(path) or path.as_posix() == space_file:
                continue
            if path.suffix.lower() in SUFFIXES:
                yield here / name
            else:
                left_out.append(path.as_posix())


def _holds_something_else(folder: Path, space_file: str) -> bool:
    """Whether a folder is output of a build or a sweep, a dataset, a virtual environment, another kernel, or a link."""
    if folder.name in _OTHER_FOLDERS or folder.name.endswith(".egg-info") or folder.is_symlink():
        return True
    return any((folder / name).exists() for name in (*_DATASET_FOLDERS, "pyvenv.cfg", space_file))


def _text(file: Path, folder: Path) -> str:
    name = file.relative_to(folder).as_posix()
    if not file.resolve().is_relative_to(folder.resolve()):
        raise SpaceError(f"source {name} is a link that leaves the folder")
    try:
        # flashinfer-bench refuses empty files, such as __init__.py often is.
        return file.read_text(encoding="utf-8-sig") or "\n"
    except (OSError, UnicodeDecodeError) as error:
        raise SpaceError(f"source {name} is not readable UTF-8 text; leave it out of 'sources'") from error


def python_names(file: str, sources: Mapping[str, str]) -> set[str]:
    """Names that a Python file may define at its top level, with ``ANY`` if that cannot be determined.

    Raises:
        SpaceError: It is not Python.
    """
    return _defined(file, sources, set())


def _defined(file: str, sources: Mapping[str, str], seen: set[str]) -> set[str]:
    if file in seen:
        return set()
    seen.add(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(sources[file])
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None) or 0
        raise SpaceError(f"source {file}, line {line}: {getattr(error, 'msg', error)}") from error
    names: set[str] = set()
    for node in _top_level(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(ANY if node.name == "__getattr__" else node.name)
        elif isinstance(node, ast.ImportFrom) and any(alias.name == ANY for alias in node.names):
            names |= _star(file, node, sources, seen)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("globals", "exec"):
            names.add(ANY)
    return names


_SCOPES = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp,
    ast.GeneratorExp,
)  # fmt: skip


def _top_level(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes that run in the scope of the module, inside branches, loops, ``try`` and ``with`` too."""
    for child in ast.iter_child_nodes(tree):
        yield child
        if not isinstance(child, _SCOPES):
            yield from _top_level(child)


def _star(file: str, node: ast.ImportFrom, sources: Mapping[str, str], seen: set[str]) -> set[str]:
    """The names that ``from MODULE import *`` defines."""
    if not node.level:
        return {ANY}
    parts = PurePosixPath(file).parts[: -node.level]
    base = "/".join((*parts, *(node.module or "").split("."))).rstrip("/")
    found = next((path for path in (f"{base}.py", f"{base}/__init__.py", "__init__.py") if path in sources), None)
    return {ANY} if found is None else _defined(found, sources, seen)


def selects_without_a_size(sources: Mapping[str, str]) -> bool:
    """Whether the config is only ever asked for by ``select()``, which gives the one for the smallest size.

    False where that cannot be seen: no call by that name, or code that is not Python.
    """
    sizes = []
    for file, text in sources.items():
        if not file.endswith(".py"):
            continue
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", None))
                sizes += [bool(node.args or node.keywords)] if name == "select" else []
    return bool(sizes) and not any(sizes)


LONGEST_BYTES = 120
"""Longest name in bytes. File systems allow 255, and file names have further parts."""


def why_unfit(name: str) -> str | None:
    """Why a name cannot be part of a file name, None if it can."""
    if not name.isprintable():
        return "has characters that cannot be printed"
    if "/" in name or "\\" in name or name.strip() in ("", ".", ".."):
        return "leads out of its folder"
    size = len(name.encode("utf-8", "surrogatepass"))
    return f"has {size} bytes; at most {LONGEST_BYTES} are allowed" if size > LONGEST_BYTES else None
