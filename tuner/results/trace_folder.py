"""The flashinfer-trace folder that a Solution is written into: completes it, or refuses what is there."""

from __future__ import annotations

import contextlib
import filecmp
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tuner.errors import UnusableEnvironmentError, UsageError
from tuner.files import replacing
from workers.fib.dataset import Dataset, Problem, blob_paths


class TraceFolder:
    """A folder for exports, with the definition and the workloads that stock flashinfer-bench needs.

    Args:
        path: The folder; made when something is written.
        dataset: The dataset that the definition comes from.
        problem: The definition and the workloads on which Solutions were measured.
    """

    def __init__(self, path: Path, dataset: Dataset, problem: Problem) -> None:
        self.path = path
        self._dataset = dataset
        self._problem = problem
        self._op_type = str(problem.definition["op_type"])

    def check(self) -> None:
        """Raise now what would stop an export later; leaves nothing behind.

        Raises:
            UnusableEnvironmentError: The folder cannot be made or written into.
            UsageError: It has another definition, workload or blob of the same name.
        """
        made: list[Path] = []
        try:
            for folder in [self.path, *self.path.parents][::-1]:
                if not folder.exists():
                    folder.mkdir()
                    made.append(folder)
            with tempfile.TemporaryDirectory(prefix=".tuner-", dir=self.path):
                pass
            self._missing_workloads()
        except OSError as error:
            raise UnusableEnvironmentError(
                f"no Solution can be written into {self.path}: {error.strerror or error}; give another --out, or "
                f"--no-export"
            ) from None
        finally:
            for folder in reversed(made):
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def complete(self) -> None:
        """Copy what the folder lacks: definition, workloads, blobs.

        Raises:
            UsageError: As for :meth:`check`; nothing was written.
        """
        missing = self._missing_workloads()
        if self._is_the_dataset():
            return
        source = self._dataset.definition_file(self._problem.name)
        definition = self.path / source.relative_to(self._dataset.root)
        if self._known_definition() is None:
            definition.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, definition)
        for path in blob_paths(missing):
            (self.path / path).parent.mkdir(parents=True, exist_ok=True)
            if not (self.path / path).exists():
                shutil.copyfile(Path(self._problem.root) / path, self.path / path)
        if missing:
            self._list(missing)

    def _is_the_dataset(self) -> bool:
        return self.path.resolve() == Path(self._problem.root).resolve()

    def _known(self) -> Dataset | None:
        """The dataset in the folder, None if it holds no definition yet."""
        folder = self.path / "definitions"
        if not folder.is_dir() or not any(folder.rglob("*.json")):
            return None
        return Dataset(self.path)

    def _known_definition(self) -> dict[str, Any] | None:
        known = self._known()
        return known.definitions.get(self._problem.name) if known is not None else None

    def _missing_workloads(self) -> list[dict[str, Any]]:
        """The workloads that the folder does not list yet.

        Raises:
            UsageError: It lists another workload with the same uuid.
        """
        name = self._problem.name
        if self._is_the_dataset():
            return []
        known = self._known()
        there = known.definitions.get(name) if known is not None else None
        if known is None or there is None:
            self._refuse_other_blobs()
            return list(self._problem.listed)
        if there != self._problem.definition:
            keys = [k for k in {**there, **self._problem.definition} if there.get(k) != self._problem.definition.get(k)]
            raise UsageError(
                f"{self.path} has another definition {name!r}: it differs from the dataset's in {', '.join(keys)}; "
                f"give another --out, or remove {known.definition_file(name)} with what belongs to it"
            )
        listed = {w["uuid"]: w for w in known.workloads(name)}
        for workload in self._problem.listed:
            if listed.get(workload["uuid"], workload) != workload:
                raise UsageError(
                    f"{self.path} has another workload {workload['uuid']} of {name!r}: it differs from the dataset's; "
                    f"give another --out"
                )
        self._refuse_other_blobs()
        return [w for w in self._problem.listed if w["uuid"] not in listed]

    def _refuse_other_blobs(self) -> None:
        for path in blob_paths(self._problem.listed):
            there, ours = self.path / path, Path(self._problem.root) / path
            if there.exists() and not filecmp.cmp(there, ours, shallow=False):
                raise UsageError(f"{there} differs from {ours}; give another --out")

    def _list(self, workloads: list[dict[str, Any]]) -> None:
        """Add workloads to the folder's list, which is replaced as a whole so that no reader sees half of it."""
        name = self._problem.name
        listing = self.path / "workloads" / self._op_type / f"{name}.jsonl"
        text = listing.read_text(encoding="utf-8") if listing.exists() else ""
        text += "\n" if text and not text.endswith("\n") else ""
        for workload in workloads:
            line = {"definition": name, "solution": None, "workload": workload, "evaluation": None}
            text += json.dumps(line) + "\n"
        with replacing(listing, "the list of workloads") as scratch:
            scratch.write_text(text, encoding="utf-8")
