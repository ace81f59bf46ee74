"""Parts of variants that are made once: what a ``build.py`` compiles for its config and others have in common.

A part is a folder that ``make(document, folder)`` fills. It is an entry of the artifact cache, found by its document,
by what a variant's own entry is found by (target, definition, toolchain, ...) and by all of the variant's sources but
``config.py``. So only variants of the same sources share parts.

Nothing but its document decides what a part is: it is made by a copy of the sources in which there is no ``config.py``.
The copy stays imported for the builds that follow, since reading and rewriting kernels takes the DSL a while.

A part that another process makes at the moment is left for later. When nothing else is left to do, it is waited for,
but not long: that process may be stopped or hang, and this build has a deadline of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from search_spaces.space import CONFIG_FILE
from workers.build.artifact_cache import ArtifactCache
from workers.build.loader import stage_sources
from workers.records import Variant

Make = Callable[[Any, Path], None]
_LOCKS = "parts.lock"
_PATIENCE_S = 30.0
"""Longest that a build waits for parts of others; then it makes them as well."""
_LOOK_S = 0.02
PACKAGE = "tuner_parts_"
"""Packages without a config are named so, with their origin."""


def shared(variant: Variant) -> Variant:
    """What a variant has in common with those that differ from it in ``config.py`` alone."""
    sources = {path: text for path, text in variant.sources.items() if path != CONFIG_FILE}
    return dataclasses.replace(variant, sources=sources)


def origin(variant: Variant, toolchain: Mapping[str, str]) -> str:
    """Digest of all that such variants depend on in common."""
    return ArtifactCache.key(shared(variant), toolchain)


class KeptParts:
    """Makes parts or finds them. Used by one thread of a process.

    Args:
        cache: Where parts are kept.
        of: What :func:`origin` gives for the variant.
        variant: The variant.
    """

    def __init__(self, cache: ArtifactCache, of: str, variant: Variant) -> None:
        self._cache = cache
        self._of = of
        self._shared = shared(variant)

    def __call__(self, wanted: Mapping[str, Any], make: Make) -> Iterator[tuple[str, Path]]:
        """The folder of each part, in the order in which they are at hand: those that exist come first.

        Args:
            wanted: Name -> document. Documents are JSON; equal ones are one part.
            make: A function of a module of the variant's package. Its namesake in the copy fills a folder for a
                document, of which it is given a copy too.

        Raises:
            Exception: Whatever ``make`` raises, or its import where there is no config; nothing is kept then.
            CacheFullError: The disk is full.
        """
        digests = {name: self._digest(document) for name, document in wanted.items()}
        missing = []
        for name, digest in digests.items():
            if (entry := self._cache.get(digest)) is not None:
                yield name, entry.folder
            else:
                missing.append(name)
        for patience_s in (0.0, _PATIENCE_S):
            until = time.monotonic() + patience_s
            left, missing = missing, []
            for name in left:
                with self._turn(digests[name], until) as is_ours:
                    folder = self._made(digests[name], wanted[name], make) if is_ours or patience_s else None
                if folder is None:
                    missing.append(name)
                else:
                    yield name, folder

    def _digest(self, document: Any) -> str:
        text = json.dumps({"of": self._of, "part": document}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _made(self, digest: str, document: Any, make: Make) -> Path:
        """The part, made unless somebody was faster."""
        if (entry := self._cache.get(digest)) is not None:
            return entry.folder
        staged = self._cache.stage()
        try:
            self._namesake(make)(json.loads(json.dumps(document)), staged)
            return self._cache.publish(digest, staged, {"part": document}).folder
        finally:
            self._cache.discard(staged)

    def _namesake(self, make: Make) -> Make:
        """The function of the same name in the package without a config, which is imported once in this process."""
        package = f"{PACKAGE}{self._of[:16]}"
        copied = str(self._copied(package))  # each time, so that it counts as used, and is written anew if it is gone
        if package not in sys.modules:
            for name in [n for n in sys.modules if n.startswith(PACKAGE)]:  # of other sources
                del sys.modules[name]
            sys.path.insert(0, copied)
            importlib.invalidate_caches()
        module = importlib.import_module(f"{package}.{make.__module__.partition('.')[2]}")
        namesake: Make | None = getattr(module, make.__qualname__, None)
        if namesake is None:
            raise ValueError(f"{make.__qualname__} makes parts, so it must be a function of a module of its own")
        return namesake

    def _copied(self, package: str) -> Path:
        """The folder of the package without a config. It is an entry of the cache, because source files are read long
        after their import."""
        if (entry := self._cache.get(self._of)) is not None:
            return entry.folder
        staged = self._cache.stage()
        try:
            stage_sources(self._shared, staged / package)
            return self._cache.publish(self._of, staged, {}).folder
        finally:
            self._cache.discard(staged)

    @contextlib.contextmanager
    def _turn(self, digest: str, until: float) -> Iterator[bool]:
        """Whether this process is the one that makes a part meanwhile; found out by then (``time.monotonic``). One that
        dies gives the turn back.

        A lock on a byte of one file: nothing is left behind. Where there are no locks, or the file is another user's,
        everybody makes.
        """
        with contextlib.ExitStack() as held:
            try:
                file = held.enter_context((self._cache.root / _LOCKS).open("ab"))
            except OSError:
                yield True
                return
            yield _locked(file, int(digest[:15], 16), until)


def _locked(file: BinaryIO, place: int, until: float) -> bool:
    """Whether one byte of a file could be locked by then, or there are no locks."""
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except (BlockingIOError, PermissionError):
            if time.monotonic() >= until:
                return False
            time.sleep(_LOOK_S)
        except OSError:
            return True
        else:
            return True
