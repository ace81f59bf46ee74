"""``python -m benchmarks.search_replay.transfer``: what a sweep gains from the finished sweep of a relative.

For each pair ``A:B`` and seed, a sweep on A is finished first; then B is searched cold, and with A's trials as prior.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.search_replay.loop import Prior, one_thread, recorded, replay
from benchmarks.search_replay.score import curve
from tuner.errors import EXIT_OK, TunerError, UsageError
from tuner.recording import SUFFIX

BUDGETS = (5, 10, 15, 25, 40, 60, 100)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the pairs; the table goes to stdout."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search_replay.transfer", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help=f"folder of *{SUFFIX} files")
    parser.add_argument("--pairs", required=True, help="A:B,C:D with names of recordings; A is the relative of B")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--history", type=int, default=120, help="trials of the relative's sweep")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    try:
        pairs = [_pair(options.data, text) for text in options.pairs.split(",")]
        document = {f"{_name(a)}:{_name(b)}": _measure(a, b, options) for a, b in pairs}
    except TunerError as error:
        print(f"transfer: {error}", file=sys.stderr)
        return error.exit_code
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return EXIT_OK


def _pair(folder: Path, text: str) -> tuple[Path, Path]:
    names = text.split(":")
    paths = [folder / f"{name}{SUFFIX}" for name in names]
    if len(paths) != 2 or not all(p.exists() for p in paths):
        raise UsageError(f"pair {text!r} does not name two recordings of {folder} as A:B")
    return paths[0], paths[1]


def _name(path: Path) -> str:
    return path.name.removesuffix(SUFFIX)


def _measure(relative: Path, target: Path, options: argparse.Namespace) -> dict[str, object]:
    seeds = range(options.seeds)
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn"), initializer=one_thread) as pool:
        results = list(pool.map(both, *zip(*((relative, target, s, options.history) for s in seeds), strict=True)))
    cold, warm = (np.array([r[i] for r in results]) for i in (0, 1))
    late = lag(np.median(cold, axis=0), np.median(warm, axis=0))
    print(f"\n{_name(relative)} -> {_name(target)}, {options.seeds} seeds")
    print("evaluations  " + " ".join(f"{b:>7}" for b in BUDGETS))
    table = {}
    for name, curves in (("cold", cold), ("warm", warm)):
        table[name] = [float(np.median(curves[:, b - 1])) for b in BUDGETS]
        table[f"{name}_mean"] = [float(curves[:, b - 1].mean()) for b in BUDGETS]
        for label in (name, f"{name}_mean"):
            print(f"{label:12} " + " ".join(f"{v:7.3f}" for v in table[label]))
    print(f"warm is at most {late} evaluations behind cold (what comes after {max(BUDGETS)} is not seen)")
    return {"budgets": list(BUDGETS), **table, "evaluations_behind": late}


def both(relative: Path, target: Path, seed: int, history: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Curves of the target cold and with the relative's sweep as prior; the relative's seed is another one."""
    length = max(BUDGETS)
    recording, _ = recorded(target)
    prior = _history(relative, seed + 1000, history)
    cold, warm = (replay(target, "auto", seed, length, prior=p) for p in ((), prior))
    return curve(recording, cold.rows, length), curve(recording, warm.rows, length)


def _history(path: Path, seed: int, evaluations: int) -> Prior:
    recording, _ = recorded(path)
    rows = replay(path, "auto", seed, evaluations).rows
    times = [recording.time_ms[row] for row in rows]
    return [(recording.config(r), None if t is None else math.log(t)) for r, t in zip(rows, times, strict=True)]


def lag(cold: NDArray[np.float64], warm: NDArray[np.float64], near: float = 1e-3) -> int:
    """The most evaluations by which ``warm`` comes later to where ``cold`` already is, within a thousandth."""
    behind = [0]
    for n, reached in enumerate(cold):
        there = np.flatnonzero(warm <= reached * (1 + near))
        behind.append((int(there[0]) if len(there) else len(warm)) - n)
    return max(behind)


if __name__ == "__main__":
    sys.exit(main())
