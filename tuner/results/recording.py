"""A finished sweep as a recording, on which samplers can be compared by replay: ``tuner study record``.

One gzip-compressed JSON object a file (``*.replay.json.gz``, format ``search-replay-1``): ``params`` maps names to
value lists, ``configs`` holds positions in them, ``time_ms`` and ``status`` what each gave, ``restrictions`` rules as
expressions (none here: only what was tried is valid). ``benchmarks/search_replay`` reads it.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from db.store import Store
from search_spaces.parameters import Config, value_key
from search_spaces.space import SearchSpace
from tuner.errors import UsageError
from tuner.files import replacing
from tuner.settings import SweepSettings
from tuner.sweeps.setup import resolve, same_space, settings_of
from workers.records import Status

FORMAT = "search-replay-1"

STATUS_TEXT = {
    Status.PASSED: "ok",
    Status.RACED_OUT: "raced",
    Status.COMPILE_ERROR: "compile",
    Status.INCORRECT_NUMERICAL: "incorrect",
    Status.INCORRECT_SHAPE: "incorrect",
    Status.INCORRECT_DTYPE: "incorrect",
}
"""What a recording calls the end of a trial; every other one is ``runtime``."""

Tried = tuple[Config, Status, Mapping[str, float]]
"""A finished trial: its config, how it ended, and workload -> median latency in microseconds of those that ran."""


def record_sweep(store: Store, sweep_id: int, regime: str | None, given: SweepSettings) -> dict[str, Any]:
    """The recording of what a sweep measured in one regime, with its space taken from the sweep's own settings.

    Args:
        store: Where the sweep is.
        sweep_id: Which sweep.
        regime: Name of the regime; may be None if there is only one.
        given: Settings of this machine: its database and dataset.

    Raises:
        UsageError: There is no such regime, none of its trials passed, or the space has changed since.
        StoreError: There is no such sweep.
    """
    sweep = store.sweeps.get(sweep_id)
    setup = resolve(settings_of(store, sweep_id, given))
    space = same_space(sweep, setup.space())
    known = list(dict.fromkeys(t.regime for t in store.trials.of(sweep_id, measurements=False)))
    if regime is None and len(known) == 1:
        regime = known[0]
    if regime not in known:
        raise UsageError(f"--regime must be one of {', '.join(known) or 'none: there is no trial'}; got {regime!r}")
    sizes = [s for r in setup.regimes(space.size_axis) if r.name == regime for s in r.sizes.values() if s is not None]
    return recording_of_sweep(store, sweep_id, space.at(sizes), regime, sweep.hardware)


def recording_of_sweep(store: Store, sweep_id: int, space: SearchSpace, regime: str, hardware: str) -> dict[str, Any]:
    """The same for a space whose default is that of the regime."""
    tried: list[Tried] = []
    for record in store.trials.of(sweep_id):
        if record.regime == regime:
            median_us = {m.workload: m.median_us for m in record.measurements if m.median_us is not None}
            tried.append((dict(record.config), Status(record.state), median_us))
    return recording_of_trials(space, tried, name=f"sweep_{sweep_id}_{regime}", hardware=hardware)


def recording_of_trials(space: SearchSpace, tried: Sequence[Tried], *, name: str, hardware: str) -> dict[str, Any]:
    """The recording of trials. The objective of a config is the geometric mean over all workloads that any trial ran.

    Raises:
        UsageError: No trial passed.
    """
    if not any(status is Status.PASSED for _, status, _ in tried):
        raise UsageError(f"no trial of {name} passed, so there is nothing to replay")
    positions = [{value_key(v): i for i, v in enumerate(p.values)} for p in space.parameters]
    points: dict[tuple[int, ...], Tried] = {}
    for trial in tried:
        config = space.check(trial[0])
        codes = zip(space.parameters, positions, strict=True)
        points[tuple(known[value_key(config[p.name])] for p, known in codes)] = trial
    kept = list(points.values())
    workloads = list(dict.fromkeys(w for _, _, median_us in tried for w in median_us))
    document: dict[str, Any] = {
        "format": FORMAT,
        "name": name,
        "kernel": space.name,
        "gpu": hardware,
        "problem_size": [],
        "objective": "time_ms (minimise)",
        "params": {p.name: list(p.values) for p in space.parameters},
        "kinds": {p.name: p.kind for p in space.parameters},
        "fixed": {},
        "restrictions": [],
        "configs": [list(point) for point in points],
        "time_ms": [_geomean_ms(trial, workloads) for trial in kept],
        "status": [STATUS_TEXT.get(status, "runtime") for _, status, _ in kept],
    }
    default = space.check(space.default)
    if (row := next((i for i, trial in enumerate(kept) if space.check(trial[0]) == default), None)) is not None:
        document["default"] = row
    document["workloads"] = workloads
    document["workload_ms"] = {w: [us[w] / 1e3 if w in us else None for _, _, us in kept] for w in workloads}
    return document


def _geomean_ms(trial: Tried, workloads: Sequence[str]) -> float | None:
    _, status, median_us = trial
    if status is not Status.PASSED or any(w not in median_us for w in workloads):
        return None
    return math.exp(sum(math.log(median_us[w] / 1e3) for w in workloads) / len(workloads))


def write_recording(path: Path, document: Mapping[str, Any]) -> None:
    """Write a recording; the same recording gives the same bytes. Never leaves an incomplete file."""
    text = json.dumps(document, separators=(",", ":"))
    with (
        replacing(path, "the recording") as scratch,
        scratch.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as file,
    ):
        file.write(text.encode())
