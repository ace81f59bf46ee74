"""Reads what ``tuner init`` is given: a Triton file, a Solution's JSON, or a contest's folder with its config.toml."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search_spaces.parameters import SpaceError
from search_spaces.source_files import read_sources
from search_spaces.space import HEADER_LANGUAGES
from tuner.errors import UsageError
from tuner.files import read_object, read_text
from tuner.init.source.source_tree import free_name

CONTEST_FILE = "config.toml"
LANGUAGES = ("python", "triton", "cpp", "cuda", "tilelang")


@dataclass(frozen=True)
class Origin:
    """A stranger's kernel.

    Attributes:
        name: A name for the space.
        files: Path -> text.
        disk: Where a single file lies, from which imports are followed; None if ``files`` are all there are.
        entry: ``file::function``, as its author says, None if he says nothing.
        definition: Name of what it solves, None if its author does not say.
        destination_passing: Whether outputs are its last arguments; None if its author does not say.
    """

    name: str
    files: Mapping[str, str]
    disk: Path | None = None
    entry: str | None = None
    definition: str | None = None
    language: str = "triton"
    destination_passing: bool | None = None
    binding: str | None = None
    dependencies: tuple[str, ...] = ()
    remarks: list[str] = field(default_factory=list)


_COMPILED = (".cu", ".cuh", ".c", ".cc", ".cpp", ".cxx", ".h", ".hpp")


def read_origin(path: Path) -> Origin:
    """Read a kernel from where its author left it.

    Raises:
        UsageError: It is none of the three forms, or not readable.
    """
    if path.is_dir():
        if not (path / CONTEST_FILE).is_file():
            raise UsageError(
                f"{path} is a folder without {CONTEST_FILE}; give a .py file, a Solution's .json or a contest folder"
            )
        return _contest(path)
    if path.name == CONTEST_FILE:
        return _contest(path.parent)
    if path.suffix == ".json":
        return _solution(path)
    text = read_text(path, "")
    if path.suffix == ".py":
        stem = "kernel" if path.stem in ("main", "config", "__init__") else path.stem
        file = free_name(stem, {"config.py", "main.py"})
        return Origin(file.removesuffix(".py"), {file: text}, disk=path.resolve())
    by_hand = "; C++ and CUDA get a space.yaml by hand, see examples/cuda_rmsnorm" if path.suffix in _COMPILED else ""
    raise UsageError(f"{path} is no .py file, no Solution's .json and no folder with {CONTEST_FILE}{by_hand}")


def _solution(path: Path) -> Origin:
    document = read_object(path, "Solution file")
    try:
        spec, sources = document["spec"], document["sources"]
        files = {str(s["path"]): str(s["content"]) for s in sources}
        name, language = str(document["name"]), str(spec["language"])
        entry = str(spec["entry_point"])
    except (ValueError, KeyError, TypeError) as error:
        what = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"{path} is no Solution: {what}") from None
    return _whole(
        path, name, files, entry, document.get("definition"), language,
        spec.get("destination_passing_style", True), spec.get("binding"), spec.get("dependencies"),
    )  # fmt: skip


def _contest(folder: Path) -> Origin:
    path = folder / CONTEST_FILE
    try:
        document = tomllib.loads(read_text(path, ""))
        solution, build = dict(document["solution"]), dict(document["build"])
        language, entry = str(build["language"]), str(build["entry_point"])
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else "something else than tables"
        raise UsageError(
            f"{path} has {what}; needed are [solution] definition and [build] language, entry_point"
        ) from None
    candidates = [folder / "solution" / str(build.get("source_dir", language)), folder / "solution"]
    source = next((c for c in candidates if c.is_dir()), None)
    if source is None:
        raise UsageError(f"{folder} has no folder solution/{language} with the sources")
    try:
        files, _ = read_sources(source, (), CONTEST_FILE)
    except SpaceError as error:
        raise UsageError(f"{source}: {error}") from None
    return _whole(
        path, str(solution.get("name", folder.resolve().name)), files, entry, solution.get("definition"), language,
        build.get("destination_passing_style", True), build.get("binding"), build.get("dependencies"),
    )  # fmt: skip


def _whole(
    path: Path, name: str, files: Mapping[str, str], entry: str, definition: Any, language: str,
    destination_passing: bool, binding: str | None, dependencies: Any,
) -> Origin:  # fmt: skip
    if language not in LANGUAGES:
        raise UsageError(f"{path}: language is {language!r}; allowed are {', '.join(LANGUAGES)}")
    if not files:
        raise UsageError(f"{path} has no sources")
    if not isinstance(definition, str | None):
        raise UsageError(f"{path}: definition is {definition!r}; needed is its name")
    if not isinstance(dependencies, list | None) or not all(isinstance(d, str) for d in dependencies or ()):
        raise UsageError(f"{path}: dependencies are {dependencies!r}; needed is a list of names")
    if "config.py" in files and language not in HEADER_LANGUAGES:
        raise UsageError(f"{path} has a file config.py, whose name the tuner needs; rename it")
    outside = [p for p in files if Path(p).is_absolute() or ".." in Path(p).parts]
    if outside:
        raise UsageError(f"{path} has a source {outside[0]!r}, which leads out of its folder")
    file, _, function = entry.rpartition("::")
    possible = [p for p in sorted(files) if language in HEADER_LANGUAGES or p.endswith(".py")]
    if not file:
        file = next((p for p in possible if re.search(rf"\b{re.escape(function)}\s*\(", files[p])), "")
    if file not in possible:
        listed = ", ".join(possible) or "none"
        raise UsageError(f"{path}: the file of entry_point {entry!r} is not among the sources in {language}: {listed}")
    return Origin(
        re.sub(r"[^\w.-]", "_", name), dict(files), None, f"{file}::{function}", definition, language,
        destination_passing, binding, tuple(dependencies or ()),
    )  # fmt: skip
