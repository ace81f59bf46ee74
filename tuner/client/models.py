"""The records that the client returns, and the cache of answers for when the service cannot be reached."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class BestAnswer:
    """The best known config for a problem size.

    Args:
        config: A config of the search space.
        found: ``exact``, ``regime`` or ``nearest``; ``detail`` says the same for people.
        median_us: Median latency; ``low_us`` and ``high_us`` are its 95 % interval.
        hardware: What it was measured on; ``environment`` has the details.
        age_s: Seconds between the end of the sweep and the answer.
        size_axis: The axis that decided, None where one config serves all sizes.
        export_id: ID of the exported Solution, None if there is none; ``solution`` is its name.
        profile: What the inputs looked like, "" for a mix.
        stale: The service could not be reached, and this is its last answer.
        raw: The answer as the service sent it.
    """

    definition: str
    config: Mapping[str, Any]
    found: Literal["exact", "regime", "nearest"]
    detail: str
    median_us: float
    low_us: float
    high_us: float
    hardware: str
    age_s: float
    sweep_id: int
    solution: str | None
    export_id: int | None
    size_axis: str | None = None
    profile: str = ""
    stale: bool = False
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def document(self) -> dict[str, Any]:
        """The answer as JSON values."""
        return {**self.raw, "stale": self.stale}

    @staticmethod
    def read(document: Mapping[str, Any], *, stale: bool) -> BestAnswer:
        """From the service's JSON."""
        names = ("definition", "config", "found", "detail", "median_us", "low_us", "high_us", "hardware", "age_s",
                 "sweep_id", "solution", "export_id", "size_axis")  # fmt: skip
        profile = document.get("profile") or ""
        return BestAnswer(**{n: document.get(n) for n in names}, profile=profile, stale=stale, raw=document)  # type: ignore[arg-type]


@dataclass(frozen=True)
class SweepStatus:
    """Where a sweep stands; ``winners`` and ``trials_by_state`` as in the API's document."""

    id: int
    state: str
    definition: str
    space: str
    target: str
    hardware: str
    trials: int
    max_trials: int | None = None
    winners: tuple[Mapping[str, Any], ...] = ()
    trials_by_state: Mapping[str, int] = field(default_factory=dict)

    @staticmethod
    def read(document: Mapping[str, Any]) -> SweepStatus:
        """From the service's JSON."""
        names = ("id", "state", "definition", "space", "target", "hardware", "trials", "max_trials")
        return SweepStatus(
            **{n: document.get(n) for n in names},  # type: ignore[arg-type]
            winners=tuple(document.get("winners", ())),
            trials_by_state=document.get("trials_by_state", {}),
        )


@dataclass(frozen=True)
class Kept:
    """A cached answer, and how long the service said that it may be used."""

    etag: str
    fetched_at: float
    max_age_s: float
    document: dict[str, Any]


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
