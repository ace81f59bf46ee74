"""``python -m benchmarks.search_replay.transfer``: what a sweep gains from the finished sweep of a relative.

For each pair ``A:B`` and seed, B is searched cold, and with the trials of a cold sweep of A (of another seed) as prior.

How far warm is behind cold: to every level that the median cold run reaches within 100 evaluations, the median number
of warm evaluations less the median number of cold ones; the largest of these differences counts. A level counts as
reached within a thousandth. Medians over seeds are noisy and the largest of many differences even more so: beside the
figure stand its 90 % bootstrap interval over seeds (a seed's cold and warm run stay together: they have most choices in
common), and the figure that cold has against itself (two samples drawn from the cold runs; median and 95th percentile).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.search_replay.loop import Prior, recorded, replay, spread
from benchmarks.search_replay.recording import SUFFIX
from benchmarks.search_replay.score import curve
from tuner.errors import EXIT_OK, TunerError, UsageError

BUDGETS = (5, 10, 15, 25, 40, 60, 100)
LEVELS = (1.2, 1.1, 1.05, 1.02, 1.01, 1.001)
LENGTH = 130
"""Evaluations of each run: what cold reaches within 100, warm may reach later."""
DRAWS = 400
"""Bootstrap samples."""

Curves = NDArray[np.float64]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the pairs; the table goes to stdout."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search_replay.transfer", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help=f"folder of *{SUFFIX} files")
    parser.add_argument("--pairs", required=True, help="A:B,C:D with names of recordings; A is the relative of B")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--history", type=int, default=120, help="trials of the relative's sweep")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    try:
        pairs = [_pair(options.data, text) for text in options.pairs.split(",")]
    except TunerError as error:
        print(f"transfer: {error}", file=sys.stderr)
        return error.exit_code
    document = {}
    cold = _cold(sorted({p for pair in pairs for p in pair}), options)
    for relative, target in pairs:
        histories = [prior_of(relative, rows, options.history) for rows in cold[relative][1:]]
        tasks = [(target, seed, p) for seed, p in enumerate(histories, options.first_seed)]
        warm = list(spread(rows_of, tasks, options.jobs))
        name = f"{_name(relative)}:{_name(target)}"
        document[name] = compare(*(_curves(target, rows) for rows in (cold[target][:-1], warm)))
        _print(name, document[name])
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


def _cold(paths: Sequence[Path], options: argparse.Namespace) -> dict[Path, list[tuple[int, ...]]]:
    """Rows of the cold sweeps of each space; one seed more than asked for, since the relative's seed is another one."""
    seeds = range(options.first_seed, options.first_seed + options.seeds + 1)
    rows = list(spread(rows_of, [(path, seed) for path in paths for seed in seeds], options.jobs))
    return {path: rows[i * len(seeds) : (i + 1) * len(seeds)] for i, path in enumerate(paths)}


def rows_of(path: Path, seed: int, prior: Prior = ()) -> tuple[int, ...]:
    """Rows of a sweep of the default strategy."""
    return replay(path, "auto", seed, LENGTH, prior=prior).rows


def prior_of(path: Path, rows: Sequence[int], evaluations: int) -> Prior:
    """The first trials of a sweep as another one's prior."""
    recording, _ = recorded(path)
    times = [recording.time_ms[row] for row in rows[:evaluations]]
    return [(recording.config(r), None if t is None else math.log(t)) for r, t in zip(rows, times, strict=False)]


def _curves(path: Path, runs: Sequence[Sequence[int]]) -> Curves:
    recording, _ = recorded(path)
    return np.array([curve(recording, rows, LENGTH) for rows in runs])


def compare(cold: Curves, warm: Curves) -> dict[str, Any]:
    """Figures of one pair; both arguments are of shape [seeds, evaluations]."""
    draw = np.random.default_rng(0)
    runs = len(cold)

    def sample() -> NDArray[np.intp]:
        return draw.integers(0, runs, runs)

    def behind_of(first: Curves, second: Curves) -> int:
        return lag(np.median(first, axis=0), np.median(second, axis=0))

    behind = [behind_of(cold[chosen], warm[chosen]) for chosen in (sample() for _ in range(DRAWS))]
    noise = [behind_of(cold[sample()], cold[sample()]) for _ in range(DRAWS)]
    until = {name: first(curves) for name, curves in (("cold", cold), ("warm", warm))}
    gain = until["cold"] - until["warm"]
    return {
        "seeds": runs,
        "budgets": list(BUDGETS),
        **{name: [float(np.median(c[:, b - 1])) for b in BUDGETS] for name, c in (("cold", cold), ("warm", warm))},
        "cold_mean": [float(cold[:, b - 1].mean()) for b in BUDGETS],
        "warm_mean": [float(warm[:, b - 1].mean()) for b in BUDGETS],
        "evaluations_behind": behind_of(cold, warm),
        "evaluations_behind_90": [float(q) for q in np.percentile(behind, (5, 95))],
        "cold_behind_itself": [float(q) for q in np.percentile(noise, (50, 95))],
        "levels": list(LEVELS),
        "mean_evaluations_saved": [float(x) for x in gain.mean(axis=0)],
        "standard_error": [float(x) for x in gain.std(axis=0, ddof=1) / math.sqrt(runs)],
    }


def lag(cold: Curves, warm: Curves, near: float = 1e-3, last: int = 100) -> int:
    """The most evaluations by which ``warm`` comes later to where ``cold`` is within ``last``; 0 if nowhere."""
    behind = [0]
    for n, reached in enumerate(cold[:last]):
        there = np.flatnonzero(warm <= reached * (1 + near))
        behind.append((int(there[0]) if len(there) else len(warm)) - n)
    return max(behind)


def first(curves: Curves) -> Curves:
    """Evaluations until each level, one more than there are where it is not reached; shape [seeds, levels]."""
    there = curves[:, :, None] <= np.array(LEVELS)
    return np.where(there.any(axis=1), there.argmax(axis=1), curves.shape[1]) + 1.0


def _print(name: str, figures: Mapping[str, Any]) -> None:
    print(f"\n{name}, {figures['seeds']} seeds\nevaluations  " + " ".join(f"{b:>7}" for b in BUDGETS))
    for label in ("cold", "warm", "cold_mean", "warm_mean"):
        print(f"{label:12} " + " ".join(f"{v:7.3f}" for v in figures[label]))
    print("within       " + " ".join(f"{x:7g}" for x in LEVELS))
    print("saved        " + " ".join(f"{x:7.1f}" for x in figures["mean_evaluations_saved"]))
    print("+-           " + " ".join(f"{x:7.1f}" for x in figures["standard_error"]))
    low, high = figures["evaluations_behind_90"]
    middle, most = figures["cold_behind_itself"]
    print(
        f"warm is at most {figures['evaluations_behind']} evaluations behind cold (90 % interval {low:g} to {high:g}); "
        f"cold behind itself {middle:g}, 95th percentile {most:g}"
    )


if __name__ == "__main__":
    sys.exit(main())
