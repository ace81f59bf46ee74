"""What a kernel imports besides its own files. Found without importing; identified by version or content."""

from __future__ import annotations

import ast
import hashlib
import importlib.machinery
import importlib.util
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path

MISSING = "not installed"

_SOURCES = (".py", ".pyi", ".so", ".cu", ".cuh", ".h", ".hpp", ".cpp")
"""Suffixes of the files of a module that decide what it does."""

_MOST_FILES = 4000
"""Most files of a module that are read; further ones are identified by size and modification time."""


def imported_names(sources: Mapping[str, str], dependencies: Sequence[str] = ()) -> tuple[str, ...]:
    """Top-level modules that a Solution's files import, and the dependencies that it names, sorted.

    Its own files and the standard library are left out. Imports inside functions count; names that are computed at
    run time are not found.
    """
    own = {Path(path).parts[0].partition(".")[0] for path in sources}
    found = {package_named(dependency) for dependency in dependencies}
    for path, text in sources.items():
        if path.endswith(".py"):
            found |= _imports(text) - own
    return tuple(sorted(found - sys.stdlib_module_names - {""}))


def package_named(requirement: str) -> str:
    """The package's name in a requirement: without version, extras and markers."""
    return re.split(r"[\s<>=!~;\[(@]", requirement.strip(), maxsplit=1)[0]


def not_installed(dependencies: Sequence[str], sources: Mapping[str, str]) -> str:
    """Which dependencies of a Solution this machine lacks, in one line with what pip would be asked for; empty if none.

    A module of that name counts too, wherever it came from.
    """
    lacking = [(text, why) for text in dependencies if (why := _why_lacking(text)) is not None]
    if not lacking:
        return ""
    imported = {name.lower() for name in imported_names(sources)}
    told = []
    for text, why in lacking:
        is_used = package_named(text).lower().replace("-", "_") in imported
        told.append(f"{text} ({why}{'; its sources import it' if is_used else ''})")
    return f"{', '.join(told)}; pip install {' '.join(shlex.quote(text) for text, _ in lacking)}"


def _why_lacking(text: str) -> str | None:
    """Why a requirement is not met here, None if it is, or is not meant for this machine."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        wanted = Requirement(text)
    except InvalidRequirement:
        wanted = None
    if wanted is not None and wanted.marker is not None and not wanted.marker.evaluate():
        return None
    name = package_named(text)
    try:
        version = metadata.version(name)
    except (metadata.PackageNotFoundError, ValueError):
        return None if _is_module(name) else "not installed"
    fits = wanted is None or wanted.specifier.contains(version, prereleases=True)
    return None if fits else f"installed is {version}"


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name.replace("-", "_")) is not None
    except (ImportError, ValueError, AttributeError):
        return False


def library_versions(names: Iterable[str]) -> dict[str, str]:
    """Name -> version of the package that provides the module, or a digest of its files if there is no such package.

    A module of the user's own (on ``PYTHONPATH``, or installed as editable) can change without a new version, so its
    files count, and those of the modules that it imports.
    """
    found: dict[str, str] = {}
    queue = list(names)
    while queue:
        name = queue.pop()
        if name in found:
            continue
        found[name], further = _version(name)
        queue += further
    return dict(sorted(found.items()))


@lru_cache(maxsize=4096)
def _imports(text: str) -> frozenset[str]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return frozenset()  # not installed: the build will say so
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Call) and _is_import_call(node.func) and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                names.add(first.value)
    return frozenset(name.partition(".")[0] for name in names)


def _is_import_call(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("import_module", "__import__")


def _version(name: str) -> tuple[str, Sequence[str]]:
    """A module's version or digest, and what its own files import."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        spec = None
    roots = _roots(spec)
    if (owner := _owner(roots)) is not None:
        return owner, ()
    package = _package_of(name, bool(roots))
    if package is not None and (not roots or all(package.locate_file("") in root.parents for root in roots)):
        return package.version, ()
    if not roots:
        return (package.version if package else MISSING), ()
    return _digest(roots)


def _roots(spec: importlib.machinery.ModuleSpec | None) -> list[Path]:
    """The module's file, or the folders of a package."""
    if spec is None:
        return []
    folders = [Path(folder).resolve() for folder in spec.submodule_search_locations or ()]
    if folders:
        return folders
    return [Path(spec.origin).resolve()] if spec.origin and Path(spec.origin).is_file() else []


def _owner(roots: Sequence[Path]) -> str | None:
    """Version of the package that installed a module, by what packages recorded of their files; None if none did.

    A module need not lie where its package's name says: the CuTe DSL is found through a ``.pth`` file. Several versions
    where several packages share the module's folder.
    """
    found = [_recorded(root) for root in roots]
    return " ".join(sorted(set.union(*found))) if found and all(found) else None


def _recorded(root: Path) -> set[str]:
    """Versions of the packages whose lists of files have this file, or files in this folder."""
    found = set()
    for site, version, files in _records():
        if site in root.parents:
            line = root.relative_to(site).as_posix() + ("," if root.is_file() else "/")
            if f"\n{line}" in files or f'\n"{line}' in files:
                found.add(version)
    return found


@lru_cache(maxsize=1)
def _records() -> Sequence[tuple[Path, str, str]]:
    """Folder, version and list of files of each installed package; as text, since parsing all takes a second."""
    packages = metadata.distributions()
    return [(Path(str(p.locate_file(""))).resolve(), p.version, "\n" + (p.read_text("RECORD") or "")) for p in packages]


def _package_of(name: str, is_there: bool) -> metadata.Distribution | None:
    """The installed package of that name, or the one that provides the module, if it is there."""
    for candidate in (name, *(_packages().get(name, ()) if is_there else ())):
        try:
            return metadata.distribution(candidate)
        except metadata.PackageNotFoundError:
            continue
    return None


@lru_cache(maxsize=1)
def _packages() -> Mapping[str, Sequence[str]]:
    return metadata.packages_distributions()


def _digest(roots: Sequence[Path]) -> tuple[str, Sequence[str]]:
    """``files:DIGEST`` of a module's files, and what they import of other modules."""
    content, further = hashlib.sha256(), set[str]()
    files = sorted({file for root in roots for file in ([root] if root.is_file() else _files(root))})
    for number, file in enumerate(files):
        try:
            if number >= _MOST_FILES:
                stat = file.stat()
                content.update(f"{file.name}:{stat.st_size}:{stat.st_mtime_ns}".encode())
                continue
            data = file.read_bytes()
        except OSError:
            continue  # deleted meanwhile
        content.update(f"{file.name}:{len(data)}:".encode() + data)
        if file.suffix == ".py":
            further |= _imports(data.decode(errors="replace"))
    return f"files:{content.hexdigest()[:12]}", tuple(further - sys.stdlib_module_names)


def _files(folder: Path) -> list[Path]:
    return [f for f in folder.rglob("*") if f.suffix in _SOURCES and "__pycache__" not in f.parts]
