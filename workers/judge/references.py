"""Keeps reference outputs on disk, so that they are computed once for each workload."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workers.fib.dataset import Document, Problem

_LIMIT_BYTES = 8 << 30

_REVISION = 4
"""Version of the format; files of other versions are never read."""


_DAMAGED = (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error, pickle.UnpicklingError)
"""What reading a damaged file raises, as tried with changed and missing bytes."""


class ReferenceStore:
    """A folder with one file for each (definition, workload, torch version, device model).

    The workload's uuid is the seed of its random inputs. What is not in the key (blobs beside the dataset) is covered
    by digests of the inputs, which are stored too. Several processes may use one folder: files appear by one rename.
    Beyond 8 GiB the least recently read files are deleted.

    Args:
        folder: The folder; made if it does not exist.
        problem: Definition and workloads.
        device_model: Name of the processor that computes them.
    """

    def __init__(self, folder: Path, problem: Problem, device_model: str) -> None:
        import torch

        self._folder = folder
        self._problem = problem
        self._common = [_REVISION, problem.definition, torch.__version__, device_model]
        folder.mkdir(parents=True, exist_ok=True)

    def load(self, uuid: str, device: str) -> Mapping[str, Any] | None:
        """``digests`` of the inputs and what was ``seen`` of the reference (on the device); None if there is no
        usable file."""
        import torch

        path = self._path(self._problem.workload(uuid))
        try:
            _check_sums(path)
            found: Mapping[str, Any] = torch.load(path, map_location=device)
        except FileNotFoundError:
            return None
        except torch.OutOfMemoryError:
            raise
        except _DAMAGED as error:
            print(f"worker: stored reference {path} is damaged, it is computed again: {error}")
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return found

    def save(self, uuid: str, document: Mapping[str, Any]) -> None:
        """Store what :meth:`load` gives."""
        import torch

        handle, partial = tempfile.mkstemp(dir=self._folder, suffix=".partial")
        try:
            with os.fdopen(handle, "wb") as file:
                torch.save(dict(document), file)
            os.replace(partial, self._path(self._problem.workload(uuid)))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(partial)
            raise
        self._trim()

    def _path(self, workload: Document) -> Path:
        text = json.dumps([*self._common, workload], sort_keys=True)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.pt"

    def _trim(self) -> None:
        files = []
        for path in self._folder.glob("*.pt"):
            with contextlib.suppress(OSError):
                stat = path.stat()
                files.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files)[:-1]:
            if total <= _LIMIT_BYTES:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size


def _check_sums(path: Path) -> None:
    """Compare the file with the sums that torch wrote into it and does not look at: with a changed number in it, every
    right candidate would be refused.

    Raises:
        ValueError: A part of it has changed.
    """
    with zipfile.ZipFile(path) as file:
        part = file.testzip()
    if part is not None:
        raise ValueError(f"the sum of {part} does not match")
