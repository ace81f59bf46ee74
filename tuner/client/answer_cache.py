"""The client's cache of answers, for when the service cannot be reached."""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tuner.results.best_config import BestConfig
from tuner.results.documents import read


@dataclass(frozen=True)
class BestAnswer(BestConfig):
    """A service's answer to a lookup; ``stale``: the service could not be reached, and this is its last answer."""

    stale: bool = False


@dataclass(frozen=True)
class Kept:
    """A cached answer, and how long the service said that it may be used.

    Raises:
        ValueError: The answer is not that of a lookup.
    """

    etag: str
    fetched_at: float
    max_age_s: float
    document: dict[str, Any]

    def __post_init__(self) -> None:
        self.answer()

    def answer(self, *, stale: bool = False) -> BestAnswer:
        """The answer as a record."""
        return read(BestAnswer, {**self.document, "stale": stale})


class AnswerCache:
    """One file per answer, replaced atomically. A file that cannot be read counts as missing."""

    def __init__(self, folder: Path | str | None) -> None:
        if folder is None:
            import platformdirs

            from workers.errors import NoPlaceError
            from workers.home import user_folder

            with contextlib.suppress(NoPlaceError):  # then answers are not kept
                found = user_folder(platformdirs.user_cache_dir, "the cache", "cache_dir", "/PATH")
                folder = found / "client"
        self._folder = Path(os.devnull if folder is None else folder)

    def read(self, key: str) -> Kept | None:
        """The cached answer, None if there is none."""
        try:
            return Kept(**json.loads((self._folder / f"{key}.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, key: str, kept: Kept) -> None:
        """Cache an answer. If the folder cannot be written there is no fallback later, and no error now."""
        path = self._folder / f"{key}.json"
        part = path.with_name(f"{key}.{os.getpid()}.{time.monotonic_ns()}.part")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(asdict(kept)), encoding="utf-8")
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)

    def drop(self, key: str) -> None:
        """Remove an answer from the cache."""
        (self._folder / f"{key}.json").unlink(missing_ok=True)
