"""Reads a flashinfer-trace folder into plain documents, without torch or flashinfer-bench."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from search_spaces.inputs.generator import RECORDED, InputGenerator
from search_spaces.source_files import why_unfit
from workers.errors import DatasetError
from workers.fib.dataset_files import Document, blob_fault, documents_below, parse, read_lines, read_text
from workers.records import Asked

_log = logging.getLogger(__name__)

PROFILE = "profile"
"""Key of a workload that the dataset does not list: its profile (:mod:`search_spaces.inputs.generator`)."""
LIKE = "like"
"""Key of such a workload: uuid and axes of the listed one that it is made after, and what that lends."""
LENDS = "lends"
"""Key in ``like``: names of the inputs that both have in common."""

_MOST_SIZE_BITS = 63
"""Of a size, for torch and for the database."""

INPUT_TYPES = ("random", "scalar", "safetensors")
"""Kinds of workload inputs that are supported."""


@dataclass(frozen=True)
class Problem:
    """One definition with the workloads to judge it on; travels to the workers.

    Args:
        root: The dataset folder; blob paths in workloads are relative to it.
        definition: The definition's document.
        workloads: The workload documents (``uuid``, ``axes``, ``inputs``), in dataset order.
        left_out: One line for each workload without inputs, or that cannot be judged, that says why.
        asked: The user's settings for judging outputs.
        generator: Makes the inputs of workloads that have a ``profile`` (:mod:`workers.fib.made_inputs`).
    """

    root: str
    definition: Document = field(repr=False)
    workloads: tuple[Document, ...] = field(repr=False)
    left_out: tuple[str, ...] = ()
    asked: Asked = field(default_factory=Asked)
    generator: InputGenerator | None = None

    @property
    def listed(self) -> tuple[Document, ...]:
        """The workloads that the dataset lists, which stock flashinfer-bench knows too."""
        return tuple(w for w in self.workloads if PROFILE not in w)

    @property
    def name(self) -> str:
        """The definition's name."""
        return str(self.definition["name"])

    def workload(self, uuid: str) -> Document:
        """The workload with this uuid.

        Raises:
            DatasetError: There is none.
        """
        for document in self.workloads:
            if document["uuid"] == uuid:
                return document
        raise DatasetError(unknown("workload", uuid, [w["uuid"] for w in self.workloads]))

    def content(self, uuid: str) -> str:
        """Digest of a workload's axes and inputs, including those in files and how they are made, as 16 hex digits.

        Raises:
            DatasetError: There is no such workload, or a file cannot be read.
        """
        document = self.workload(uuid)
        inputs = {name: dict(spec) for name, spec in document["inputs"].items()}
        for name, spec in inputs.items():
            if spec.get("type") == "safetensors":
                try:
                    spec["path"] = _file_digest(Path(self.root) / spec["path"])
                except OSError as error:
                    raise DatasetError(f"workload {uuid}: input {name!r}: {error}") from None
        made = []
        if PROFILE in document:
            made = [document[PROFILE], document[LIKE], None if self.generator is None else self.generator.digest]
        text = json.dumps([document["axes"], inputs, *made], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def blob_paths(workloads: Iterable[Document]) -> list[str]:
    """The files that hold inputs of these workloads, each once, as the workloads name them."""
    specs = (spec for workload in workloads for spec in workload["inputs"].values())
    return list(dict.fromkeys(spec["path"] for spec in specs if spec.get("type") == "safetensors"))


def _file_digest(path: Path) -> str:
    stat = path.stat()
    return _known_file_digest(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _known_file_digest(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Dataset:
    """A folder with ``definitions/``, ``workloads/`` and maybe ``solutions/``.

    Definitions are parsed at once (a few milliseconds for a hundred), workloads of a definition when they are needed.
    Hidden files are not read, and a fault in one definition does not affect others. What is left out is logged as a
    warning, once each.

    Raises:
        DatasetError: The folder is missing or holds no usable definition.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        folder = self.root / "definitions"
        if not self.root.is_dir():
            raise DatasetError(f"dataset folder {self.root} does not exist")
        if not folder.is_dir():
            raise DatasetError(f"{self.root} is not a flashinfer-trace folder: it has no definitions/ in it")
        self._remarked: set[str] = set()
        self.definitions: dict[str, Document] = {}
        self._files: dict[str, Path] = {}
        self._broken: dict[str, str] = {}
        ambiguous: dict[str, str] = {}
        for path in documents_below(folder, ".json"):
            try:
                document = parse(read_text(path, self.root), path)
                name = _name(document, path)
                _check_definition(document, path)
            except DatasetError as error:
                self._broken[path.stem] = str(error)
                continue
            same = self.definitions.get(name) == document
            try:
                if (
                    name in self._files
                    and self._counts("definition", name, name, self._files[name], path, same) != path
                ):
                    continue
            except DatasetError as error:
                ambiguous[name] = str(error)
                continue
            self.definitions[name], self._files[name] = document, path
            ambiguous.pop(name, None)  # a third one is called by the name
        for name, why in ambiguous.items():
            self._broken[name] = why
            del self.definitions[name], self._files[name]
        if not self.definitions:
            raise DatasetError(next(iter(self._broken.values()), f"no definition in {folder}"))
        for fault in self._broken.values():
            self._remark(f"{fault}; left out")

    def _counts(self, kind: str, name: str, stem: str, first: Path, second: Path, same: bool) -> Path:
        """Which of two files with the same content name to use, since editors and people leave copies.

        Raises:
            DatasetError: They differ, and not exactly one of them is called ``stem``.
        """
        called = [p for p in (first, second) if p.stem == stem]
        if len(called) != 1 and not same:
            raise DatasetError(f"{kind} {name!r} is in both {first} and {second}, and they differ")
        counts = called[0] if len(called) == 1 else first
        self._remark(f"{kind} {name!r} is in both {first} and {second}; taken from {counts}")
        return counts

    def definition(self, name: str) -> Document:
        """The definition's document.

        Raises:
            DatasetError: The name is unknown (the message lists similar ones), or the document is not a definition.
        """
        if name not in self.definitions:
            raise DatasetError(self._broken.get(name) or unknown("definition", name, list(self.definitions)))
        return self.definitions[name]

    def definition_file(self, name: str) -> Path:
        """The file that the definition was read from."""
        self.definition(name)
        return self._files[name]

    def workloads(self, definition: str) -> list[Document]:
        """The workload documents of a definition in file order; empty if the dataset has none.

        Raises:
            DatasetError: The definition is unknown, or a line of it is not a workload.
        """
        self.definition(definition)
        found: dict[str, Document] = {}
        seen: dict[str, tuple[Path, str]] = {}
        # Files are named after their definition, but other files may hold lines of it too.
        files = documents_below(self.root / "workloads", ".jsonl")
        for path in sorted(files, key=lambda p: p.stem != definition):
            for number, document in self._lines(path, definition):
                if document.get("definition") != definition:
                    continue
                where = f"{path}:{number}"
                workload = _workload(document.get("workload"), where)
                uuid = workload["uuid"]
                if uuid not in seen:
                    seen[uuid], found[uuid] = (path, where), workload
                elif seen[uuid][0] == path:
                    raise DatasetError(f"{where}: workload {uuid} was already given in {seen[uuid][1]}")
                else:
                    self._counts("workload", uuid, definition, seen[uuid][0], path, found[uuid] == workload)
        return list(found.values())

    def _lines(self, path: Path, definition: str) -> list[tuple[int, Document]]:
        """The lines of a workload file. Faults in lines of other definitions are ignored."""
        lines, faults = read_lines(path, self.root)
        for text, fault in faults:
            if path.stem == definition or f'"{definition}"' in text:
                raise DatasetError(fault)
            self._remark(f"{fault}; left out")
        return lines

    def _remark(self, text: str) -> None:
        if text not in self._remarked:
            self._remarked.add(text)
            _log.warning(text)

    def problem(self, definition: str, uuids: Sequence[str] | None = None) -> Problem:
        """A definition and its workloads, all of them or those named.

        Workloads whose inputs are missing (a blob that is not there, cut off or a git-lfs pointer) are left out with a
        remark, if others remain and they were not named.

        Raises:
            DatasetError: Definition or workload is unknown, or no workload is left.
        """
        document = self.definition(definition)
        workloads = self.workloads(definition)
        if not workloads:
            raise DatasetError(f"definition {definition!r} has no workloads in {self.root / 'workloads'}")
        if uuids is not None:
            by_uuid = {w["uuid"]: w for w in workloads}
            for uuid in uuids:
                if uuid not in by_uuid:
                    raise DatasetError(unknown("workload", uuid, list(by_uuid)))
            workloads = [by_uuid[uuid] for uuid in uuids]
        faults = {w["uuid"]: fault for w in workloads if (fault := self._fault(document, w)) is not None}
        if faults and (uuids is not None or len(faults) == len(workloads)):
            raise DatasetError(next(iter(faults.values())))
        for fault in faults.values():
            self._remark(f"{fault}; left out")
        usable = tuple(w for w in workloads if w["uuid"] not in faults)
        return Problem(str(self.root.resolve()), document, usable, tuple(faults.values()))

    def _fault(self, definition: Document, workload: Document) -> str | None:
        """Why a workload's inputs cannot be made, None if they can."""
        for name in (n for n, axis in definition["axes"].items() if axis["type"] == "var"):
            size = workload["axes"].get(name)
            if size is None or size < 0 or size.bit_length() > _MOST_SIZE_BITS:
                given = "no size" if size is None else f"a size of {size}" if size < 0 else "too large a size"
                return f"workload {workload['uuid']}: axes give {given} for {name!r}"
        sizes = {n: axis.get("value") for n, axis in definition["axes"].items()} | workload["axes"]
        for name, tensor in definition["inputs"].items():
            if name not in workload["inputs"]:
                if tensor.get("optional"):
                    continue
                return f"workload {workload['uuid']}: it says nothing about input {name!r}"
            why = self._input_fault(workload["inputs"][name], tensor, sizes)
            if why is not None:
                return f"workload {workload['uuid']}: input {name!r} {why}"
        return None

    def _input_fault(self, spec: Document, tensor: Document, sizes: Mapping[str, Any]) -> str | None:
        """Why one input of a workload cannot be made, None if it can."""
        kind = spec.get("type")
        if kind not in INPUT_TYPES:
            return f"has type {kind!r}; known are {', '.join(INPUT_TYPES)}"
        if kind == "scalar" and not isinstance(spec.get("value"), int | float):
            return f"is a scalar with the value {spec.get('value')!r}, which is no number"
        if kind != "safetensors":
            return None
        names = tensor.get("shape")
        shape = [sizes[n] for n in names] if isinstance(names, list) and all(n in sizes for n in names) else None
        why = blob_fault(self.root, spec, shape, str(tensor.get("dtype")))
        return why and f"needs {why}"

    def solutions(self) -> dict[str, Document]:
        """Name -> Solution document of everything under ``solutions/`` that can be read.

        Raises:
            DatasetError: A name appears twice, and no file name says which one to use.
        """
        found: dict[str, Document] = {}
        files: dict[str, Path] = {}
        for path in documents_below(self.root / "solutions", ".json"):
            try:
                document = parse(read_text(path, self.root), path)
                name = _name(document, path)
            except DatasetError as error:
                self._remark(f"{error}; left out")
                continue
            same = found.get(name) == document
            if name not in files or self._counts("Solution", name, name, files[name], path, same) == path:
                found[name], files[name] = document, path
        return found


def profile_of(workload: Document) -> str:
    """What a workload's inputs look like; ``recorded`` for one of the dataset."""
    return str(workload.get(PROFILE, RECORDED))


def unknown(kind: str, name: str, known: Sequence[str]) -> str:
    """One line that says that a name is unknown and which names are similar."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    listed = near or sorted(known)[:5]
    head = "did you mean" if near else "some of the known are"
    return f"unknown {kind} {name!r}; {head} {', '.join(listed)} ({len(known)} known)"


def _need(document: Document, key: str, path: Path) -> str:
    value = document.get(key)
    if not isinstance(value, str) or not value:
        raise DatasetError(f"{path}: the key {key!r} is missing or not a text")
    return value


def _name(document: Document, path: Path, key: str = "name") -> str:
    """Check that a name can be shown in messages and be part of a file name."""
    name = _need(document, key, path)
    why = why_unfit(name)
    if why is not None:
        raise DatasetError(f"{path}: the {key} {reprlib.repr(name)} {why}")
    return name


def _check_definition(document: Document, path: Path) -> None:
    """Check the parts of a definition that are used here; flashinfer-bench checks the rest when it loads it."""
    _name(document, path, "op_type")
    _need(document, "reference", path)
    for key in ("axes", "inputs", "outputs"):
        value = document.get(key)
        if not isinstance(value, dict) or not all(isinstance(v, dict) for v in value.values()):
            raise DatasetError(f"{path}: the key {key!r} is missing or not an object of objects")
    for name, axis in document["axes"].items():
        if axis.get("type") not in ("const", "var"):
            raise DatasetError(f"{path}: axis {name!r} has type {axis.get('type')!r}; allowed are const, var")
        if axis["type"] == "const" and type(axis.get("value")) is not int:
            raise DatasetError(f"{path}: axis {name!r} is const and its value {axis.get('value')!r} no whole number")


def _workload(workload: Any, where: str) -> Document:
    """The workload of a line, after a check of the parts that are used here."""
    if not isinstance(workload, dict) or not {"uuid", "axes", "inputs"} <= set(workload):
        raise DatasetError(f"{where}: a workload line needs 'workload' with uuid, axes and inputs")
    uuid = workload["uuid"]
    if not isinstance(uuid, str) or not uuid or not uuid.isprintable():
        raise DatasetError(f"{where}: a workload's uuid is a text that can be printed, not {uuid!r}")
    axes, inputs = workload["axes"], workload["inputs"]
    if not isinstance(axes, dict) or not all(type(v) is int for v in axes.values()):
        raise DatasetError(f"{where}: a workload's axes are whole numbers by name, not {axes!r}")
    if not isinstance(inputs, dict) or not all(isinstance(v, dict) for v in inputs.values()):
        raise DatasetError(f"{where}: a workload's inputs are objects by name, not {inputs!r}")
    for name, spec in inputs.items():
        at = spec.get("path")
        if spec.get("type") == "safetensors" and not (isinstance(at, str) and at.isprintable() and _stays_inside(at)):
            raise DatasetError(f"{where}: input {name!r} is a safetensors file and has no sound path, but {at!r}")
    return workload


def _stays_inside(path: str) -> bool:
    """Whether a path is below the dataset's folder, or absolute."""
    return os.path.isabs(path) or not os.path.normpath(path).startswith("..")
