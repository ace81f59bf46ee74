"""The artifact cache: variants with the same sources, target and toolchain are built once.

An entry is a folder ``<root>/entries/<digest>/`` with the variant's package folder and a manifest that lists every file
with its SHA-256. An entry appears by one rename, so a reader sees all of it or nothing. Reading checks the manifest; an
entry that does not match is removed and counts as a miss. Several processes may use one root.

Source: quack (Dao-AILab), quack/cache_utils.py, for the key of source fingerprint and versions and the atomic replace.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.errors import CacheFullError
from workers.fib.adapter import LIBRARY
from workers.home import make_folder, user_folder
from workers.records import Variant

_MANIFEST = "manifest.json"
_FORMAT = 1
_GRACE_S = 3600.0
"""An entry used within this time is not evicted, since somebody may be loading it."""

_LOOKS = 64
"""How often the whole cache is examined while as much is published as its limit allows."""

_ROOM_BYTES = 1 << 16
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

DEFAULT_LIMIT_BYTES = 20 << 30


CACHE_VARIABLE = "TUNER_CACHE_DIR"


def default_cache_dir() -> Path:
    """``TUNER_CACHE_DIR``, else the user's cache folder.

    Raises:
        NoPlaceError: Neither; this user has no home folder.
    """
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given)
    import platformdirs

    return user_folder(platformdirs.user_cache_dir, "the artifact cache", CACHE_VARIABLE, "/PATH/tuner-cache")


@dataclass(frozen=True)
class Entry:
    """A built variant on disk. ``meta`` holds what its builder recorded (figures, seconds)."""

    digest: str
    folder: Path
    meta: Mapping[str, Any]


class ArtifactCache:
    """A content-addressed folder of artifacts.

    Args:
        root: The folder; made if it does not exist.
        limit_bytes: Size above which :meth:`publish` drops the least recently used entries.

    Raises:
        NoPlaceError: The folder cannot be made or written.
    """

    def __init__(self, root: str | Path, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self.root = Path(root)
        self.limit_bytes = limit_bytes
        self._unseen_bytes = limit_bytes
        """Bytes published since the whole cache was last examined; the first entry triggers that."""
        self._entries = self.root / "entries"
        self._staging = self.root / "staging"
        for folder in (self._entries, self._staging):
            make_folder(folder, "folder of the artifact cache", CACHE_VARIABLE)

    @staticmethod
    def key(variant: Variant, toolchain: Mapping[str, str]) -> str:
        """Digest of everything that the built folder depends on, as 32 hex digits."""
        document = {
            "format": _FORMAT,
            "sources": dict(variant.sources),
            "entry_point": variant.entry_point,
            "language": variant.language,
            "binding": variant.binding,
            "target": variant.target,
            "definition": variant.definition,
            "dependencies": list(variant.dependencies),
            "toolchain": dict(toolchain),
        }
        if variant.is_native:
            document["library"] = LIBRARY  # by another name an evaluator does not find it, and compiles it once more
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:32]

    def get(self, digest: str) -> Entry | None:
        """The entry, None if there is none. A damaged one is removed."""
        folder = self._entries / digest
        try:
            manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
            intact = manifest["format"] == _FORMAT and all(
                _sha256(folder / path) == expected for path, expected in manifest["files"].items()
            )
            meta = manifest["meta"]
        except FileNotFoundError:
            if folder.exists():
                self._remove(folder)
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            intact, meta = False, {}
        if not intact:
            self._remove(folder)
            return None
        with contextlib.suppress(OSError):
            os.utime(folder)
        return Entry(digest, folder, meta)

    def check_room(self) -> None:
        """Raise if the disk is full.

        Raises:
            CacheFullError: The disk is full.
        """
        with self._full_is_told(), tempfile.TemporaryFile(dir=self._staging) as probe:
            probe.write(bytes(_ROOM_BYTES))
            probe.flush()

    def stage(self) -> Path:
        """A new empty folder on the cache's file system, for :meth:`publish` or :meth:`discard`.

        Raises:
            CacheFullError: The disk is full.
        """
        with self._full_is_told():
            return Path(tempfile.mkdtemp(dir=self._staging))

    def publish(self, digest: str, staged: Path, meta: Mapping[str, Any]) -> Entry:
        """Turn a staged folder into the entry. If another process was faster, its entry stays and ours is dropped.

        Raises:
            CacheFullError: The disk is full.
        """
        with self._full_is_told():
            return self._publish(digest, staged, meta)

    def _publish(self, digest: str, staged: Path, meta: Mapping[str, Any]) -> Entry:
        # Bytecode too: it is what runs, and Python does not compare it with its source.
        files = {
            str(path.relative_to(staged)): _sha256(path)
            for path in sorted(staged.rglob("*"))
            if path.is_file() and path.suffix != ".lock" and path.name != _MANIFEST
        }
        self._unseen_bytes += sum((staged / path).stat().st_size for path in files)
        manifest = {"format": _FORMAT, "meta": dict(meta), "files": files}
        (staged / _MANIFEST).write_text(json.dumps(manifest, default=str), encoding="utf-8")
        target = self._entries / digest
        try:
            os.rename(staged, target)
        except OSError:
            # The entry exists. get() removes it if it is damaged, and then the second rename succeeds.
            found = self.get(digest)
            if found is not None:
                self.discard(staged)
                return found
            os.rename(staged, target)
        # With some thousand entries, examining all of them for each new one would cost more than building.
        if self._unseen_bytes * _LOOKS >= self.limit_bytes:
            self._unseen_bytes = 0
            self.evict()
        return Entry(digest, target, dict(meta))

    def discard(self, staged: Path) -> None:
        """Delete a staged folder."""
        shutil.rmtree(staged, ignore_errors=True)

    def evict(self) -> int:
        """Remove the least recently used entries until the limit holds, and folders staged by dead processes.

        Returns:
            The number of entries removed.
        """
        now = time.time()
        for left in self._staging.iterdir():
            with contextlib.suppress(OSError):
                if now - left.stat().st_mtime > 24 * _GRACE_S:
                    self.discard(left)
        sized = []
        for folder in self._entries.iterdir():
            with contextlib.suppress(OSError):
                size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                sized.append((folder.stat().st_mtime, size, folder))
        total = sum(size for _, size, _ in sized)
        removed = 0
        for used, size, folder in sorted(sized, key=lambda item: item[0]):
            if total <= self.limit_bytes or now - used < _GRACE_S:
                break
            self._remove(folder)
            total -= size
            removed += 1
        return removed

    def pack(self, digest: str) -> bytes:
        """The entry as a tar archive, for another machine's cache.

        Raises:
            FileNotFoundError: There is no intact entry.
        """
        entry = self.get(digest)
        if entry is None:
            raise FileNotFoundError(f"artifact {digest} is not in the cache {self.root}")
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            archive.add(entry.folder, arcname=".")
        return buffer.getvalue()

    def unpack(self, digest: str, packed: bytes) -> Entry:
        """Store an archive made by :meth:`pack`. Keeps modification times, on which compilers' caches depend."""
        staged = self.stage()
        with self._full_is_told(), tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(staged, filter="data")
        meta = json.loads((staged / _MANIFEST).read_text(encoding="utf-8"))["meta"]
        return self.publish(digest, staged, meta)

    @contextlib.contextmanager
    def _full_is_told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in DISK_FULL:
                raise CacheFullError(
                    f"the disk of the cache {self.root} is full; what was finished is kept. Free some and resume"
                ) from error
            raise

    def _remove(self, folder: Path) -> None:
        """Delete an entry, renaming it first so that no reader sees half of it."""
        away = self.stage()
        with contextlib.suppress(OSError):
            os.rename(folder, away / "removed")
        shutil.rmtree(away, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
