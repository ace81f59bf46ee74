"""A flashinfer-trace folder as plain documents: found and parsed without torch or flashinfer-bench."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workers.errors import DatasetError

Document = dict[str, Any]
"""A parsed JSON object of flashinfer-bench's schema."""


@dataclass(frozen=True)
class Problem:
    """One definition with the workloads to judge it on; travels to the workers.

    Args:
        root: The dataset folder; blob paths in workloads are relative to it.
        definition: The definition's document.
        workloads: The workload documents (``uuid``, ``axes``, ``inputs``), in dataset order.
    """

    root: str
    definition: Document = field(repr=False)
    workloads: tuple[Document, ...] = field(repr=False)

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


class Dataset:
    """A folder with ``definitions/``, ``workloads/`` and, if it has any, ``solutions/``.

    Definitions are parsed at once (a few milliseconds each hundred), workloads of a definition when asked for.

    Raises:
        DatasetError: The folder is missing or holds no definition, a file is not JSON, a name appears twice.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        folder = self.root / "definitions"
        if not self.root.is_dir():
            raise DatasetError(f"dataset folder {self.root} does not exist")
        if not folder.is_dir():
            raise DatasetError(f"{self.root} is not a flashinfer-trace folder: it has no definitions/ in it")
        self.definitions: dict[str, Document] = {}
        self._files: dict[str, Path] = {}
        for path in sorted(folder.rglob("*.json")):
            document = _parse(_text(path), path)
            name = _name(document, path)
            if name in self.definitions:
                raise DatasetError(f"definition {name!r} is in both {self._files[name]} and {path}")
            self.definitions[name] = document
            self._files[name] = path
        if not self.definitions:
            raise DatasetError(f"no definition in {folder}")

    def definition(self, name: str) -> Document:
        """The definition's document.

        Raises:
            DatasetError: The name is unknown, and the message lists near ones; or the document is not a definition.
        """
        if name not in self.definitions:
            raise DatasetError(unknown("definition", name, list(self.definitions)))
        _check_definition(self.definitions[name], self._files[name])
        return self.definitions[name]

    def definition_file(self, name: str) -> Path:
        """Where the definition was read from."""
        self.definition(name)
        return self._files[name]

    def workloads(self, definition: str) -> list[Document]:
        """The workload documents of a definition in file order; empty if the dataset has none.

        Raises:
            DatasetError: The definition is unknown, or a line is not a workload.
        """
        self.definition(definition)
        found: list[Document] = []
        seen: dict[str, str] = {}
        for path in sorted((self.root / "workloads").rglob("*.jsonl")):
            # Files are named after their definition; a foreign name may still hold lines of it.
            for number, document in _lines(path):
                if document.get("definition") != definition:
                    continue
                where = f"{path}:{number}"
                workload = _workload(document.get("workload"), where)
                if workload["uuid"] in seen:
                    raise DatasetError(
                        f"{where}: workload {workload['uuid']} was already given in {seen[workload['uuid']]}"
                    )
                seen[workload["uuid"]] = where
                found.append(workload)
        return found

    def problem(self, definition: str, uuids: Sequence[str] | None = None) -> Problem:
        """A definition and its workloads, all of them or those named, with their blob files present.

        Raises:
            DatasetError: Definition, workload or blob is missing, or there is no workload at all.
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
        for workload in workloads:
            for name, spec in workload["inputs"].items():
                if spec.get("type") != "safetensors":
                    continue
                blob = self.root / spec["path"]
                if not blob.is_file():
                    raise DatasetError(f"workload {workload['uuid']}: input {name!r} needs {blob}, which is missing")
        return Problem(str(self.root.resolve()), document, tuple(workloads))

    def solutions(self) -> dict[str, Document]:
        """Name -> Solution document of everything under ``solutions/``.

        Raises:
            DatasetError: A file is not JSON, or a name appears twice.
        """
        found: dict[str, Document] = {}
        for path in sorted((self.root / "solutions").rglob("*.json")):
            document = _parse(_text(path), path)
            name = _name(document, path)
            if name in found:
                raise DatasetError(f"{path}: Solution {name!r} is already defined by another file")
            found[name] = document
        return found


def unknown(kind: str, name: str, known: Sequence[str]) -> str:
    """One line that says that a name is unknown and which ones are near."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    listed = near or sorted(known)[:5]
    head = "did you mean" if near else "some of the known are"
    return f"unknown {kind} {name!r}; {head} {', '.join(listed)} ({len(known)} known)"


def _lines(path: Path) -> Iterator[tuple[int, Document]]:
    # Not splitlines(): JSON texts may hold characters that it takes for the end of a line.
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            yield number, _parse(line, path, number)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from None


def _parse(text: str, path: Path, line: int | None = None) -> Document:
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        at = line if line is not None else error.lineno
        raise DatasetError(f"{path}:{at}: not valid JSON: {error.msg} (column {error.colno})") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, brackets in thousands of brackets
        raise DatasetError(f"{path}:{line or 1}: not usable JSON: {type(error).__name__}: {error}") from None
    if not isinstance(document, dict):
        raise DatasetError(f"{path}:{line or 1}: expected a JSON object, found {type(document).__name__}")
    return document


def _need(document: Document, key: str, path: Path) -> str:
    value = document.get(key)
    if not isinstance(value, str) or not value:
        raise DatasetError(f"{path}: the key {key!r} is missing or not a text")
    return value


def _name(document: Document, path: Path) -> str:
    """The name, which is fit to be shown: every message and table is made of such names."""
    name = _need(document, "name", path)
    if not name.isprintable():
        raise DatasetError(f"{path}: the name {name!r} has characters that cannot be printed")
    return name


def _check_definition(document: Document, path: Path) -> None:
    """What is read of a definition has the form that is read; flashinfer-bench checks the rest when it loads it."""
    for key in ("op_type", "reference"):
        _need(document, key, path)
    for key in ("axes", "inputs", "outputs"):
        value = document.get(key)
        if not isinstance(value, dict) or not all(isinstance(v, dict) for v in value.values()):
            raise DatasetError(f"{path}: the key {key!r} is missing or not an object of objects")
    for name, axis in document["axes"].items():
        if axis.get("type") not in ("const", "var"):
            raise DatasetError(f"{path}: axis {name!r} has type {axis.get('type')!r}; allowed are const, var")


def _workload(workload: Any, where: str) -> Document:
    """The workload of a line, if what is read of it has the form that is read."""
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
        if spec.get("type") == "safetensors" and not (isinstance(at, str) and at.isprintable()):
            raise DatasetError(f"{where}: input {name!r} is a safetensors file and has no sound path, but {at!r}")
    return workload
