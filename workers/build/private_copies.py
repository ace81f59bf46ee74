"""An evaluator's own copies of artifacts: what a candidate writes beside itself never reaches the cache."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

from workers.build.artifact_cache import Entry


class PrivateCopies:
    """One copy of each artifact for each process that candidates run in. Several threads may ask.

    Args:
        root: Folder for the copies.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._process = 0
        self._lock = threading.Lock()

    def of(self, entry: Entry) -> Path:
        """The copy for the present process, made at the first call.

        Raises:
            OSError: It cannot be made.
        """
        with self._lock:
            folder = self._root / str(self._process) / entry.digest
            if not folder.exists():
                partial = folder.with_suffix(".partial")
                shutil.rmtree(partial, ignore_errors=True)
                shutil.copytree(entry.folder, partial)
                partial.rename(folder)
            return folder

    def is_present(self, folder: Path) -> bool:
        """Whether a copy belongs to the present process."""
        with self._lock:
            return folder.parent == self._root / str(self._process)

    def renew(self) -> None:
        """Another process begins: it sees nothing of what candidates wrote before."""
        with self._lock:
            shutil.rmtree(self._root / str(self._process), ignore_errors=True)
            self._process += 1
