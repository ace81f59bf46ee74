"""Recorded search spaces: which configs were measured, and what came out.

The format is that of :mod:`tuner.results.recording`; ``kinds``, ``default``, and for several workloads ``workloads``
with ``workload_ms`` are optional. Recordings of other tuners have rules in ``restrictions``.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from search_spaces.constraint_search import only_listed
from search_spaces.expression import compile_expression
from search_spaces.parameters import Config, Constraint, Parameter, Value, value_key, value_of_json
from search_spaces.space import SearchSpace
from tuner.errors import UsageError
from tuner.results.recording import FORMAT
from workers.records import Status

SUFFIX = ".replay.json.gz"
FAILED = ("compile", "runtime", "incorrect")
"""Values of ``status`` for configs without a time. Others are ``raced`` (stopped early) and ``ok`` (has a time)."""


SEARCHED = 1_000_000
"""Combinations that can be tried one by one to find those that were recorded."""


STATUS_OF = {
    "ok": Status.PASSED,
    "compile": Status.COMPILE_ERROR,
    "runtime": Status.RUNTIME_ERROR,
    "incorrect": Status.INCORRECT_NUMERICAL,
    "raced": Status.RACED_OUT,
}
"""Status in a recording -> status of a worker."""


@dataclass(frozen=True)
class Recording:
    """What was measured of one space on one piece of hardware.

    Args:
        name: Name of the recording.
        kernel: What was tuned.
        gpu: The hardware it was measured on.
        parameters: The tunable parameters.
        restrictions: Rules as expressions over the parameters; may be empty, since only recorded configs are valid.
        points: One row per config: the position of each parameter's value in its list.
        time_ms: Objective of each config in milliseconds, None where it failed.
        status: One of ``ok``, ``raced`` and ``FAILED`` for each config.
        workloads: Names of the workloads in ``workload_ms``.
        workload_ms: Workload -> milliseconds of each config, None where it did not run or failed.
        default: Row of the default config, None if the recording names none.
        problem_size: Size of the problem; shown, not used.
        fixed: Parameters that had only one value.
    """

    name: str
    kernel: str
    gpu: str
    parameters: tuple[Parameter, ...]
    restrictions: tuple[str, ...]
    points: tuple[tuple[int, ...], ...] = field(repr=False)
    time_ms: tuple[float | None, ...] = field(repr=False)
    status: tuple[str, ...] = field(repr=False)
    workloads: tuple[str, ...] = ("recorded",)
    workload_ms: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict, repr=False)
    default: int | None = None
    problem_size: tuple[Any, ...] = ()
    fixed: Mapping[str, Value] = field(default_factory=dict)

    @cached_property
    def optimum_ms(self) -> float:
        """The best recorded time."""
        return min(t for t in self.time_ms if t is not None)

    @cached_property
    def rows(self) -> dict[tuple[int, ...], int]:
        """Row of each recorded point."""
        return {p: i for i, p in enumerate(self.points)}

    @cached_property
    def _codes(self) -> tuple[dict[tuple[str, Any], int], ...]:
        return tuple({value_key(v): i for i, v in enumerate(p.values)} for p in self.parameters)

    def row(self, config: Mapping[str, Any]) -> int | None:
        """Row of a config, None if it was not recorded."""
        codes = []
        for parameter, known in zip(self.parameters, self._codes, strict=True):
            value = config[parameter.name]
            code = known.get(value_key(value))
            if code is None:
                return None
            codes.append(code)
        return self.rows.get(tuple(codes))

    def config(self, row: int) -> Config:
        """The config of a row."""
        return {p.name: p.values[c] for p, c in zip(self.parameters, self.points[row], strict=True)}

    def times_ms(self, row: int) -> dict[str, float | None]:
        """Milliseconds on each workload."""
        if not self.workload_ms:
            return {self.workloads[0]: self.time_ms[row]}
        return {w: self.workload_ms[w][row] for w in self.workloads}

    def space(self) -> SearchSpace:
        """The recorded configs as a search space; its default is the recorded one, else the most central."""
        names = tuple(p.name for p in self.parameters)
        constraints = []
        for expression in (compile_expression(text, names) for text in self.restrictions):
            constraints.append(Constraint(expression.names, expression.text, expression))
        reason = "the config was not recorded"
        if math.prod(len(p.values) for p in self.parameters) > SEARCHED:
            constraints += only_listed(names, [self.config(row) for row in range(len(self.points))], reason)
        else:
            constraints.append(Constraint(names, reason, lambda c: self.row(c) is not None))
        default = self.default if self.default is not None else self._middle()
        return SearchSpace(
            name=self.name,
            target="cpu",
            parameters=self.parameters,
            constraints=tuple(constraints),
            default=self.config(default),
            sources={"main.py": f'"""Stands for recorded runs of {self.kernel} on {self.gpu}; nothing to run."""\n'},
        )

    def document(self) -> dict[str, Any]:
        """For :func:`tuner.results.self.write_recording`."""
        document: dict[str, Any] = {
            "format": FORMAT,
            "name": self.name,
            "kernel": self.kernel,
            "gpu": self.gpu,
            "problem_size": list(self.problem_size),
            "objective": "time_ms (minimise)",
            "params": {p.name: list(p.values) for p in self.parameters},
            "kinds": {p.name: p.kind for p in self.parameters},
            "fixed": dict(self.fixed),
            "restrictions": list(self.restrictions),
            "configs": [list(p) for p in self.points],
            "time_ms": list(self.time_ms),
            "status": list(self.status),
        }
        if self.default is not None:
            document["default"] = self.default
        if self.workload_ms:
            document["workloads"] = list(self.workloads)
            document["workload_ms"] = {w: list(v) for w, v in self.workload_ms.items()}
        return document

    def _middle(self) -> int:
        last = np.maximum([len(p.values) - 1 for p in self.parameters], 1)
        apart = np.array(self.points, dtype=float) / last - 0.5
        return int(np.argmin((apart**2).sum(axis=1)))


def read_recording(path: Path) -> Recording:
    """The recording in a file.

    Raises:
        UsageError: There is no such file, or it is not a recording.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            document = json.load(file)
        return recording_of(document)
    except FileNotFoundError as error:
        raise UsageError(f"no recording {path}") from error
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, IndexError) as error:
        why = f"no key {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"{path} is not a recording of format {FORMAT}: {why}") from error


def recording_of(document: Mapping[str, Any]) -> Recording:
    """The recording in a document.

    Raises:
        ValueError, KeyError, TypeError, IndexError: It is not a recording.
    """
    if document["format"] != FORMAT:
        raise ValueError(f"its format is {document['format']!r}")
    kinds = document.get("kinds", {})
    recording = Recording(
        name=document["name"],
        kernel=document["kernel"],
        gpu=document["gpu"],
        parameters=tuple(
            Parameter(name, value_of_json(values), kinds.get(name, _kind(values)))
            for name, values in document["params"].items()
        ),
        restrictions=tuple(document["restrictions"]),
        points=tuple(tuple(c) for c in document["configs"]),
        time_ms=tuple(document["time_ms"]),
        status=tuple(document["status"]),
        workloads=tuple(document.get("workloads", ("recorded",))),
        workload_ms={w: tuple(v) for w, v in document.get("workload_ms", {}).items()},
        default=document.get("default"),
        problem_size=_sizes(document.get("problem_size")),
        fixed=document.get("fixed", {}),
    )
    _check(recording)
    return recording


def _sizes(given: Any) -> tuple[Any, ...]:
    """The problem's sizes; a problem of one size may name it alone."""
    if given is None:
        return ()
    return tuple(given) if isinstance(given, list | tuple) else (given,)


def _kind(values: list[Value]) -> Any:
    """Strings have no order; other values are ordered as they are listed."""
    return "categorical" if any(isinstance(v, str) for v in values) else "ordinal"


def _check(recording: Recording) -> None:
    rows = len(recording.points)
    columns = {"time_ms": recording.time_ms, "status": recording.status, **recording.workload_ms}
    for name, column in columns.items():
        if len(column) != rows:
            raise ValueError(f"{name} has {len(column)} entries for {rows} configs")
    sizes = [len(p.values) for p in recording.parameters]
    for point in recording.points:
        if len(point) != len(sizes) or any(not 0 <= c < n for c, n in zip(point, sizes, strict=True)):
            raise ValueError(f"config {list(point)} does not fit the parameters, which have {sizes} values")
    if len(set(recording.points)) != rows:
        raise ValueError("a config is listed twice")
    times = [t for t in recording.time_ms if t is not None]
    if not times or not all(math.isfinite(t) and t > 0 for t in times):
        raise ValueError("time_ms needs at least one time, and times are positive and finite")
    if recording.default is not None and not 0 <= recording.default < rows:
        raise ValueError(f"default is row {recording.default} of {rows}")
    if recording.workload_ms and set(recording.workload_ms) != set(recording.workloads):
        raise ValueError(f"workload_ms has {sorted(recording.workload_ms)}, workloads are {list(recording.workloads)}")
    for text in recording.restrictions:
        compile_expression(text, [p.name for p in recording.parameters])
