"""The stage that records many configs of the space on a few workloads, for searches that are replayed on them.

Two sweeps in one database, without racing: ``auto`` with the space's starts, and random configs. All workloads are one
regime, so that every config is measured on each. A stage that is cut goes on with what its database has.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu_sweep.context import Context
from db.store import Store

SIZES = (15, 57, 901)
"""Tokens of the workloads: one of each of the first regimes."""
MADE = 4096
"""A long prefill, made, since it takes less of the GPU than the listed ones."""
PROFILES = "recorded,hot:3"
SAMPLES = 10
"""Of a median: the fewest that a sweep takes on a GPU."""
SEARCHED = 0.2
"""Share of the configs that ``auto`` proposes."""
SEED = 11
_END_S = 30.0
"""For what follows the search: a short final, and the recordings."""
_START_S = 25.0
"""Until the search begins: workers start and make the workloads."""


@dataclass(frozen=True)
class Part:
    """One of the two sweeps: its number in the database, its sampler, its trials."""

    sweep: int
    name: str
    trials: int
    flags: tuple[str, ...]


def parts(total: int) -> tuple[Part, Part]:
    """The two sweeps of so many trials together."""
    searched = max(1, round(SEARCHED * total))
    return (
        Part(1, "searched", searched, ("--sampler", "auto")),
        Part(2, "random", max(1, total - searched), ("--sampler", "random", "--no-warm-start")),
    )


def run(context: Context, total: int, builders: int | None) -> dict[str, Any]:
    """Sweep until so many configs are tried or the time is over; then write what there is as recordings."""
    began, result = time.time(), {"wanted": total, "sweeps": {}, "recordings": {}}
    for part in parts(total):
        done = trials(context)
        left = context.limit_s - (time.time() - began) - _END_S
        if done.get(part.sweep, 0) >= part.trials or (part.sweep > 1 and part.sweep - 1 not in done):
            continue
        # The first may take its share and half as much again, so that a slow search leaves time for the second.
        budget = left - _START_S if part.sweep > 1 else min(left - _START_S, 1.5 * SEARCHED * left)
        if budget < 1:
            break
        arguments = _arguments(context, part, is_there=part.sweep in done, budget_s=budget, builders=builders)
        said = context.tuner(arguments, sweep="record", timeout_s=budget + _START_S + _END_S, log=f"record-{part.name}")
        result["sweeps"][part.name] = {"budget_s": budget, **{k: said.get(k) for k in ("wall_s", "code", "error")}}
        result["trials"] = {part.name: trials(context).get(part.sweep, 0) for part in parts(total)}
        context.save("record", result)
    for part in parts(total):
        if trials(context).get(part.sweep, 0):
            result["recordings"][part.name] = _written(context, part)
    return result


def trials(context: Context) -> dict[int, int]:
    """Sweep -> its trials so far."""
    if not context.database("record").exists():
        return {}
    store = Store.open(f"sqlite:///{context.database('record')}")
    try:
        return {s.id: len(store.trials.of(s.id, measurements=False)) for s in store.sweeps.newest() if s.id}
    finally:
        store.close()


def _arguments(context: Context, part: Part, *, is_there: bool, budget_s: float, builders: int | None) -> list[str]:
    limits = ["--max-trials", str(part.trials), "--budget-s", f"{budget_s:.0f}", "--no-export"]
    limits += ["--builders", str(builders)] if builders else []
    if is_there:
        return ["sweep", "--resume", str(part.sweep), "--dataset", str(context.dataset), *limits]
    axis, there = context.space.size_axis, set(context.sizes().values())
    axes = [part for size in SIZES if size in there for part in ("--axes", f"{axis}={size}")]
    return [
        "sweep", "--target", context.target, "--dataset", str(context.dataset), "--definition", context.definition,
        *axes, *(("--sizes", str(MADE)) if axes else ()), "--profiles", PROFILES, "--regimes", "1000000",
        "--race-factor", "1000", "--max-samples", str(SAMPLES), "--finalists", "1", "--final-rounds", "8",
        "--final-s", "1", "--final-share", "0.01", "--compile-s", "60", "--check-s", "15", "--measure-s", "15",
        "--keep-going", "--seed", str(SEED), *part.flags, *limits,
    ]  # fmt: skip


def _written(context: Context, part: Part) -> dict[str, Any]:
    """Write the recording of a sweep beside the database."""
    out = context.work / f"moe_{part.name}.replay.json.gz"
    arguments = ["study", "record", str(part.sweep), "--dataset", str(context.dataset), "--out", str(out)]
    return context.tuner(arguments, sweep="record", timeout_s=_END_S, log=f"recording-{part.name}")
