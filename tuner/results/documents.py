"""What is told of sweeps: the same records in the API's answers, on the pages, on the command line and in the client.

Points in time are ISO text in UTC. Fields are added, never renamed.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter

from db.records import WinnerRecord
from search_spaces.parameters import value_of_json

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class SweepHead:
    """A sweep in a list. ``state`` is RUNNING, DONE, INTERRUPTED, FAILED, or LOST: its process died, resume it.
    ``hardware`` is "" until its workers have come up."""

    id: int
    state: str
    definition: str
    space: str
    target: str
    hardware: str
    started_at: str | None
    finished_at: str | None
    trials: int
    max_trials: int | None = None
    budget_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class SweepDetail(SweepHead):
    """A sweep with its outcome so far."""

    seed: int
    stop_requested: bool
    resumable: bool
    trials_by_state: Mapping[str, int]
    winners: list[WinnerRecord]


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """A finished trial; ``latency_us`` is the geometric mean over the workloads that were measured."""

    id: int
    number: int
    regime: str
    state: str
    latency_us: float | None
    config: Mapping[str, Any]
    origin: str
    reason: str
    started_at: str | None
    finished_at: str | None


@dataclass(frozen=True, kw_only=True)
class TrialDetail(TrialRow):
    """A trial with its build and its measurements."""

    build: Mapping[str, Any] | None
    measurements: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class SolutionHead:
    """An exported Solution."""

    id: int
    name: str
    definition: str
    sweep_id: int
    digest: str
    exported_at: str | None


_reader: Any = functools.cache(TypeAdapter)
"""What reads a class; making it takes milliseconds."""


def read(kind: type[T], document: Mapping[str, Any]) -> T:
    """A record from its JSON values; what a newer server adds is left out.

    Raises:
        ValueError: Something is missing, or is of another type.
    """
    found: T = _reader(kind).validate_python(_with_tuples(document))
    return found


def _with_tuples(document: Any) -> Any:
    """The document with configs as they are in records: their values are never lists, JSON has no tuples."""
    if isinstance(document, list):
        return [_with_tuples(inner) for inner in document]
    if not isinstance(document, Mapping):
        return document
    return {
        key: {name: value_of_json(value) for name, value in inner.items()}
        if key == "config" and isinstance(inner, Mapping)
        else _with_tuples(inner)
        for key, inner in document.items()
    }
