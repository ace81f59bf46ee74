"""``python -m benchmarks.search_replay.racing``: what racing saves on recordings with several workloads, and loses.

A trial that is much slower than the incumbent on a workload does not run on the rest. The recording knows what it would
have reached, so that what racing threw away can be told exactly.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.search_replay.loop import readable, recorded, recordings, replay, spread
from benchmarks.search_replay.recording import SUFFIX
from benchmarks.search_replay.score import curve
from tuner.errors import EXIT_OK, TunerError, UsageError

NEVER = 1e9
"""A factor beyond which nothing is raced out."""


@dataclass(frozen=True)
class Raced:
    """One sweep.

    Args:
        timings: Workloads that were timed, over all trials.
        raced: Trials that were raced out.
        best: Best config that it found over the optimum.
        lost: By how much the best of all configs that it tried is better than what it found, as a factor: 1.0 if racing
            threw nothing away.
        by_timings: Best over the optimum after each number of timings that was asked for.
    """

    timings: int
    raced: int
    best: float
    lost: float
    by_timings: tuple[float, ...]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sweeps; the table goes to stdout."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search_replay.racing", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help=f"folder of *{SUFFIX} files with several workloads")
    parser.add_argument("--spaces", default="", help="names of recordings, comma-separated; default all of the folder")
    parser.add_argument("--factors", default="1.1,1.3,2", help="race factors to compare with no racing")
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    try:
        paths = readable(recordings(options.data, options.spaces))
        for name, path in paths.items():
            if len(recorded(path)[0].workloads) < 2:
                raise UsageError(f"recording {name} has one workload; racing needs several")
    except TunerError as error:
        print(f"racing: {error}", file=sys.stderr)
        return error.exit_code
    factors = [*map(float, options.factors.split(",")), NEVER]
    document = {name: _measure(path, factors, options) for name, path in paths.items()}
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return EXIT_OK


def _measure(path: Path, factors: Sequence[float], options: argparse.Namespace) -> dict[str, object]:
    recording, _ = recorded(path)
    marks = tuple(share * options.trials * len(recording.workloads) // 4 for share in (1, 2, 3))
    todo = [(path, seed, options.trials, factor, marks) for factor in factors for seed in range(options.seeds)]
    runs = list(spread(race, todo, options.jobs))
    print(f"\n{recording.name}: {len(recording.workloads)} workloads, {options.trials} trials, {options.seeds} seeds")
    heads = " ".join(f"{f'@{m}':>7}" for m in marks)
    print(f"race factor  timings a trial  raced out  best/optimum  thrown away: runs  at most  | after timings {heads}")
    table: dict[str, object] = {}
    for i, factor in enumerate(factors):
        mine = runs[i * options.seeds : (i + 1) * options.seeds]
        label = "never" if factor == NEVER else f"{factor:g}"
        table[label] = {"timings": list(marks), "runs": [asdict(r) for r in mine]}
        best, lost = (np.array([getattr(r, n) for r in mine]) for n in ("best", "lost"))
        print(
            f"{label:>11} {np.mean([r.timings for r in mine]) / options.trials:16.2f} "
            f"{np.mean([r.raced for r in mine]) / options.trials:10.0%} {np.exp(np.log(best).mean()):13.4f} "
            f"{(lost > 1).sum():18} {lost.max() - 1:8.1%}  | {'':13} "
            + " ".join(f"{x:7.3f}" for x in np.exp(np.log([r.by_timings for r in mine]).mean(axis=0)))
        )
    return table


def race(path: Path, seed: int, trials: int, factor: float, marks: Sequence[int]) -> Raced:
    """One sweep on a recording with several workloads."""
    recording, _ = recorded(path)
    run = replay(path, "auto", seed, trials, race_factor=factor)
    found = curve(recording, run.rows, len(run.rows), run.raced)
    tried = curve(recording, run.rows, len(run.rows))
    spent = np.cumsum(run.timings)
    finished = np.searchsorted(spent, marks, side="right")
    return Raced(
        timings=int(spent[-1]),
        raced=sum(run.raced),
        best=float(found[-1]),
        lost=float(found[-1] / tried[-1]),
        by_timings=tuple(float(found[max(n - 1, 0)]) for n in finished),
    )


if __name__ == "__main__":
    sys.exit(main())
