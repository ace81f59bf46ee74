"""``python -m benchmarks.search_replay.stopping``: when ``--max-trials auto`` ends a sweep, and how wrong it is then.

Every run is the true sweep loop with that setting. What the search expects of more trials is compared with what the
recording knows: at the stop, and on the way there.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search_replay.loop import readable, recorded, recordings, replay, spread
from benchmarks.search_replay.recording import SUFFIX
from benchmarks.search_replay.score import NEAR, curve
from tuner.errors import EXIT_OK, TunerError
from tuner.search import Search
from tuner.search.stopping_rule import StopAdvice

CHECKPOINTS = (50, 100, 150, 200, 300)


@dataclass(frozen=True)
class Stopped:
    """One sweep that was to end by itself. Regrets are log latencies: 0.02 is 2 %.

    Args:
        space: Name of the recording.
        seed: Of the sweep.
        trials: After which it ended.
        advised: Whether the advice ended it; otherwise the limit did.
        regret: By which its best exceeds the optimum.
        expected: What the search said then, None if it said nothing yet.
        on_the_way: Trials -> (regret, expected regret) there.
    """

    space: str
    seed: int
    trials: int
    advised: bool
    regret: float
    expected: float | None
    on_the_way: dict[int, tuple[float, float]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sweeps; the table goes to stdout."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search_replay.stopping", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help=f"folder of *{SUFFIX} files")
    parser.add_argument("--spaces", default="", help="names of recordings, comma-separated; default all of the folder")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--limit", type=int, default=600, help="trials after which a sweep is ended all the same")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    try:
        paths = readable(recordings(options.data, options.spaces))
    except TunerError as error:
        print(f"stopping: {error}", file=sys.stderr)
        return error.exit_code
    todo = [(path, seed, options.limit) for path in paths.values() for seed in range(options.seeds)]
    runs = list(spread(stopped, todo, options.jobs))
    table = {name: figures([r for r in runs if r.space == recorded(path)[0].name]) for name, path in paths.items()}
    table["all"] = figures(runs)
    _print(table)
    if options.json:
        document = {"limit": options.limit, "seeds": options.seeds, "figures": table, "runs": [asdict(r) for r in runs]}
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return EXIT_OK


def stopped(path: Path, seed: int, limit: int) -> Stopped:
    """A sweep on a recording that ends by the search's advice, or at the limit."""
    recording, _ = recorded(path)
    said: dict[int, StopAdvice] = {}

    def watch(search: Search) -> None:
        told: list[int] = []
        tell, should_stop = search.tell, search.should_stop

        def counted(number: int, value: float | None, *, detail: str = "") -> None:
            tell(number, value, detail=detail)
            told.append(number)

        def limited() -> StopAdvice:
            advice = said[len(told)] = should_stop()
            return advice if len(told) < limit else replace(advice, stop=True)

        search.tell, search.should_stop = counted, limited  # type: ignore[method-assign]

    rows = replay(path, "auto", seed, "auto", watch=watch).rows
    best = np.log(curve(recording, rows, len(rows)))
    last = max(said)
    on_the_way = {
        n: (float(best[n - 1]), float(said[n].expected_regret or 0.0)) for n in CHECKPOINTS if n in said and n < last
    }
    expected = said[last].expected_regret
    return Stopped(recording.name, seed, len(rows), said[last].stop, float(best[-1]), expected, on_the_way)


def figures(runs: Sequence[Stopped]) -> dict[str, Any]:
    """Of several sweeps; regrets in percent."""
    ended = [r for r in runs if r.advised]
    trials = [r.trials for r in runs]
    out: dict[str, Any] = {
        "runs": len(runs),
        "stopped": len(ended),
        "trials_quartiles": [float(q) for q in np.percentile(trials, (25, 50, 75))],
    }
    if ended:
        regret, expected = (np.array([getattr(r, n) for r in ended]) for n in ("regret", "expected"))
        out |= {
            "mean_regret_pct": float(100 * regret.mean()),
            "mean_expected_pct": float(100 * expected.mean()),
            "largest_regret_pct": float(100 * regret.max()),
            "at_the_optimum": float((regret < 1e-6).mean()),
            "wrong": int((regret > math.log(NEAR)).sum()),
        }
    out["on_the_way_pct"] = {
        n: [float(100 * x) for x in np.mean([r.on_the_way[n] for r in runs if n in r.on_the_way], axis=0)]
        for n in CHECKPOINTS
        if any(n in r.on_the_way for r in runs)
    }
    return out


def _print(table: dict[str, dict[str, Any]]) -> None:
    width = max(map(len, table))
    print(f"{'':{width}}  runs stopped  trials: quartiles   regret %: mean expected largest  above {NEAR}")
    for name, f in table.items():
        trials = " ".join(f"{q:5.0f}" for q in f["trials_quartiles"])
        line = f"{name:{width}}  {f['runs']:4} {f['stopped']:7}  {trials}"
        if f["stopped"]:
            regrets = (f["mean_regret_pct"], f["mean_expected_pct"], f["largest_regret_pct"])
            line += "  {:14.2f} {:8.2f} {:7.2f}".format(*regrets) + f" {f['wrong']:6}"
        print(line)
    for trials, (regret, expected) in table["all"]["on_the_way_pct"].items():
        print(f"after {trials} trials, where still running: regret {regret:.2f} %, expected {expected:.2f} %")


if __name__ == "__main__":
    sys.exit(main())
