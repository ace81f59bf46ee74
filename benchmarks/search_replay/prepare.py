"""``python -m benchmarks.search_replay.prepare``: recordings from elsewhere, for the other commands of this package.

``cache FILE OUT`` turns a cache file of Kernel Tuner (a public collection of them is named in docs/search.md) into a
recording. ``join OUT A B ...`` makes one recording with several workloads of recordings of the same space.
``anonymous FILE OUT`` hides what names and order say: parameters are called p0, p1, ... and come in random order.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.search_replay.recording import SUFFIX, Recording, read_recording
from search_spaces.parameters import Parameter
from tuner.errors import EXIT_OK, TunerError, UsageError
from tuner.results.recording import write_recording

VALUES = ("kept", "shuffled", "labels")
"""What :func:`anonymous` does to values: nothing, a random order, or texts in their place."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write one recording."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search_replay.prepare", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    cache = commands.add_parser("cache", help="from a cache file of Kernel Tuner")
    cache.add_argument("file", type=Path)
    cache.add_argument("out", type=Path)
    join = commands.add_parser("join", help="several recordings of one space as its workloads")
    join.add_argument("out", type=Path)
    join.add_argument("parts", type=Path, nargs="+")
    hide = commands.add_parser("anonymous", help="a recording without its names and order")
    hide.add_argument("file", type=Path)
    hide.add_argument("out", type=Path)
    hide.add_argument("--seed", type=int, default=0)
    hide.add_argument(
        "--values", choices=VALUES, default=VALUES[0], help="whether their order and sizes are hidden too"
    )
    options = parser.parse_args(argv)
    try:
        if not options.out.name.endswith(SUFFIX):
            raise UsageError(f"recordings are named *{SUFFIX}; got {options.out.name}")
        name = options.out.name.removesuffix(SUFFIX)
        if options.command == "cache":
            recording = recording_of_cache(_read(options.file), name)
        elif options.command == "anonymous":
            recording = anonymous(read_recording(options.file), name, options.seed, options.values)
        else:
            recording = joined([read_recording(p) for p in options.parts], name)
        write_recording(options.out, recording.document())
    except TunerError as error:
        print(f"prepare: {error}", file=sys.stderr)
        return error.exit_code
    return EXIT_OK


def _read(path: Path) -> dict[str, Any]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            document: dict[str, Any] = json.load(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is not a gzip-compressed JSON file: {error}") from error
    return document


def recording_of_cache(document: dict[str, Any], name: str) -> Recording:
    """A recording of a complete cache: only configs that are in it are valid, so no restriction is needed.

    Raises:
        UsageError: It is not a cache file.
    """
    try:
        values = {k: v for k, v in document["tune_params"].items() if len(v) > 1}
        entries = list(document["cache"].values())
        points = tuple(tuple(v.index(e[k]) for k, v in values.items()) for e in entries)
        times = tuple(_time_ms(e["time"]) for e in entries)
        status = tuple(_status(e["time"]) for e in entries)
        parameters = tuple(Parameter(k, tuple(v)) for k, v in values.items())
        kernel, gpu = document["kernel_name"], document["device_name"]
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise UsageError(f"{name} is not a cache file of Kernel Tuner: {error!r}") from error
    return Recording(name, kernel, gpu, parameters, (), points, times, status)


def _time_ms(time: Any) -> float | None:
    return float(time) if isinstance(time, int | float) and math.isfinite(time) else None


def _status(time: Any) -> str:
    if _time_ms(time) is not None:
        return "ok"
    return "compile" if "ompil" in str(time) else "runtime"


def joined(parts: Sequence[Recording], name: str) -> Recording:
    """One recording whose workloads are the parts, named after them.

    Its configs are those that all parts have. One that fails in a part fails with the first such part's status; the
    others' time is the geometric mean.

    Raises:
        UsageError: The parts are not of one space, or fewer than two.
    """
    first = parts[0]
    if len(parts) < 2 or any(p.parameters != first.parameters for p in parts):
        raise UsageError(
            f"{', '.join(p.name for p in parts)}: two or more recordings of the same parameters are needed"
        )
    points = tuple(p for p in first.points if all(p in part.rows for part in parts))
    rows = [[part.rows[p] for part in parts] for p in points]
    status = [next((s for s in _statuses(parts, at) if s != "ok"), "ok") for at in rows]
    times = {part.name: tuple(part.time_ms[at[i]] for at in rows) for i, part in enumerate(parts)}
    return Recording(
        name=name,
        kernel=first.kernel,
        gpu=" + ".join(p.gpu for p in parts),
        parameters=first.parameters,
        restrictions=first.restrictions,
        points=points,
        time_ms=tuple(_geomean(column) for column in zip(*times.values(), strict=True)),
        status=tuple(status),
        workloads=tuple(times),
        workload_ms=times,
    )


def _statuses(parts: Sequence[Recording], at: Sequence[int]) -> list[str]:
    return [part.status[row] for part, row in zip(parts, at, strict=True)]


def anonymous(recording: Recording, name: str, seed: int, values: str = VALUES[0]) -> Recording:
    """The same configs and times with parameters without names in random order; its default stays the same config.

    Restrictions are left out: they would name what is hidden, and only recorded configs are valid anyway.
    """
    draw = random.Random(seed)
    order = draw.sample(range(len(recording.parameters)), len(recording.parameters))
    parameters, places = [], []
    for number, position in enumerate(order):
        known = recording.parameters[position]
        count = range(len(known.values))
        chosen = draw.sample(count, len(count)) if values != "kept" else list(count)
        listed = tuple(known.values[c] for c in chosen)
        if values == "labels":
            parameters.append(Parameter(f"p{number}", tuple(f"v{i}" for i in count), "categorical"))
        else:
            parameters.append(Parameter(f"p{number}", listed, known.kind))
        places.append((position, {c: i for i, c in enumerate(chosen)}))
    return replace(
        recording,
        name=name,
        parameters=tuple(parameters),
        restrictions=(),
        points=tuple(tuple(place[point[at]] for at, place in places) for point in recording.points),
        default=recording.row(recording.space().default),
        fixed={},
    )


def _geomean(times: Sequence[float | None]) -> float | None:
    known = [t for t in times if t is not None]
    return math.exp(sum(map(math.log, known)) / len(times)) if len(known) == len(times) else None


if __name__ == "__main__":
    sys.exit(main())
