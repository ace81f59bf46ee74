"""``python -m benchmarks.search_replay``: strategies against recorded spaces.

Example:
    ``python -m benchmarks.search_replay --data DIR --strategies auto,random --budgets 25,100 --seeds 30 --json FILE``
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.search_replay.draw import draw
from benchmarks.search_replay.loop import Run, readable, recorded, recordings, replay, spread
from benchmarks.search_replay.recording import SUFFIX
from benchmarks.search_replay.score import SpaceFigures, Summary, curve, figures, random_expectation, summary
from tuner.errors import EXIT_OK, TunerError, UsageError
from tuner.search import sampler_names

Curves = dict[str, dict[str, NDArray[np.float64]]]
"""Space -> strategy -> best so far over the optimum, shape [seeds, evaluations]."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; the table goes to stdout."""
    options = _parser().parse_args(argv)
    try:
        paths = readable(recordings(options.data, options.spaces))
        strategies = _strategies(options.strategies)
        runs = _run_all(paths, strategies, options)
        _report(paths, strategies, runs, options)
    except TunerError as error:
        print(f"search_replay: {error}", file=sys.stderr)
        return error.exit_code
    return EXIT_OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search_replay", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help=f"folder of *{SUFFIX} files")
    parser.add_argument("--spaces", default="", help="names of recordings, comma-separated; default all of the folder")
    parser.add_argument("--strategies", default="auto,tpe,random", help=f"of {', '.join(sampler_names())}")
    parser.add_argument("--budgets", type=_numbers, default=(25, 50, 100, 200, 400), help="evaluations to report at")
    parser.add_argument("--seeds", type=_positive, default=30, help="runs of each strategy on each space")
    parser.add_argument("--in-flight", type=_positive, default=1, help="trials in flight at a time")
    parser.add_argument("--jobs", type=_positive, default=2, help="processes")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument(
        "--curves", type=Path, help="HTML file for the curves; default: beside --json, else search-replay.html here"
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(sorted({_positive(part) for part in text.split(",")}))


def _strategies(text: str) -> tuple[str, ...]:
    chosen = tuple(text.split(","))
    for name in chosen:
        if name not in sampler_names():
            raise UsageError(f"unknown strategy {name!r}; allowed are {', '.join(sampler_names())}")
    return chosen


def _run_all(paths: dict[str, Path], strategies: Sequence[str], options: argparse.Namespace) -> list[Run]:
    """All runs, ordered by space, strategy and seed."""
    longest = max(options.budgets)
    todo = [
        (p, s, seed, longest, options.in_flight)
        for p in paths.values()
        for s in strategies
        for seed in range(options.seeds)
    ]
    return list(_shown(spread(replay, todo, options.jobs), len(todo)))


def _shown(runs: Iterable[Run], count: int) -> Iterable[Run]:
    for done, run in enumerate(runs, 1):
        if sys.stderr.isatty():
            print(f"\r{done}/{count} runs", end="" if done < count else "\n", file=sys.stderr)
        yield run


def _report(paths: dict[str, Path], strategies: Sequence[str], runs: list[Run], options: argparse.Namespace) -> None:
    budgets, longest = options.budgets, max(options.budgets)
    curves: Curves = {}
    table: dict[str, dict[str, SpaceFigures]] = {s: {} for s in strategies}
    random: dict[str, list[float]] = {}
    for name, path in paths.items():
        recording, _ = recorded(path)
        random[name] = [random_expectation(recording, b) for b in budgets]
        mine = [r for r in runs if r.space == recording.name]
        curves[name] = {
            s: np.array([curve(recording, r.rows, longest, r.raced) for r in group])
            for s, group in groupby(mine, key=lambda r: r.strategy)
        }
        for strategy, measured in curves[name].items():
            table[strategy][name] = figures(recording, measured, budgets)
    totals = {s: summary(list(by_space.values())) for s, by_space in table.items()}
    cpu = {s: _cpu(runs, s, list(paths)) for s in strategies}
    for strategy in strategies:
        _print(strategy, budgets, table[strategy], totals[strategy], cpu[strategy])
    page = options.curves or (options.json.with_suffix(".html") if options.json else Path("search-replay.html"))
    draw(curves, page)
    print(f"curves: {page}", file=sys.stderr)
    if options.json:
        _write(options, table, totals, cpu, random, curves)


def _cpu(runs: list[Run], strategy: str, spaces: Sequence[str]) -> dict[str, float]:
    """Mean CPU milliseconds of the search per proposal on each space, and of the whole loop over all."""
    mine = [r for r in runs if r.strategy == strategy]
    by_space = {s: float(np.mean([r.search_cpu_ms for r in mine if r.space == s])) for s in spaces}
    return {**by_space, "whole loop": float(np.mean([r.cpu_ms for r in mine]))}


def _print(
    strategy: str, budgets: Sequence[int], by_space: dict[str, SpaceFigures], total: Summary, cpu: dict[str, float]
) -> None:
    def cells(values: Sequence[float], pattern: str) -> str:
        return " ".join(format(v, pattern) for v in values)

    width = max(len(n) for n in (*by_space, "geomean / mean"))
    head = " ".join(f"{b:>7}" for b in budgets)
    print(f"\n{strategy}\n{'':{width}}  {'median best / optimum':{8 * len(budgets)}} | share within 2 % | score")
    print(f"{'evaluations':{width}}  {head} | {' '.join(f'{b:>5}' for b in budgets)} | (same) | search CPU ms")
    for name, f in by_space.items():
        line = f"{cells(f.median, '7.3f')} | {cells(f.near, '5.2f')} | {cells(f.score, '6.3f')}"
        print(f"{name:{width}}  {line} | {cpu[name]:.1f}")
    line = f"{cells(total.geomean_of_medians, '7.3f')} | {cells(total.near, '5.2f')} | {cells(total.score, '6.3f')}"
    print(f"{'geomean / mean':{width}}  {line} | whole loop {cpu['whole loop']:.1f}")


def _write(
    options: argparse.Namespace,
    table: dict[str, dict[str, SpaceFigures]],
    totals: dict[str, Summary],
    cpu: dict[str, dict[str, float]],
    random: dict[str, list[float]],
    curves: Curves,
) -> None:
    document = {
        "schema_version": 1,
        "budgets": list(options.budgets),
        "seeds": options.seeds,
        "in_flight": options.in_flight,
        "random_expectation": random,
        "strategies": {
            s: {
                "spaces": {n: asdict(f) for n, f in by_space.items()},
                "total": asdict(totals[s]),
                "cpu_ms_per_evaluation": cpu[s],
                "median_curves": {n: [round(float(x), 5) for x in np.median(curves[n][s], axis=0)] for n in by_space},
            }
            for s, by_space in table.items()
        },
    }
    options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
