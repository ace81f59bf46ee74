"""The pages' tables: best configs by hardware, and two sweeps side by side."""

from __future__ import annotations

from typing import Any

from db.records import BestRow, SweepRecord
from db.store import Store
from tuner.format import workload_text
from tuner.results.status import moment


def best_table(rows: list[BestRow]) -> list[dict[str, Any]]:
    """The winners of a definition, grouped by hardware, small sizes first."""
    mix = [row for row in rows if not row.winner.profile]
    ordered = sorted(mix, key=lambda r: (r.environment.hardware, r.target, r.winner.min_size or 0))
    return [
        {
            "hardware": row.environment.hardware,
            "target": row.target,
            "sizes": size_range(row.winner.size_axis, row.winner.min_size, row.winner.max_size),
            "winner": row.winner,
            "sweep_id": row.sweep_id,
            "finished": moment(row.finished_at),
            "solution_id": row.export_id,
            "solution": row.solution,
        }
        for row in ordered
    ]


def size_range(axis: str | None, low: int | None, high: int | None) -> str:
    """The sizes of a regime as text."""
    if axis is None:
        return "all sizes"
    if low is None or low <= 1:
        return f"all {axis}" if high is None else f"{axis} up to {high}"
    return f"{axis} from {low}" if high is None else f"{axis} {low} to {high}"


def comparison(store: Store, first: SweepRecord, second: SweepRecord) -> dict[str, Any]:
    """Two sweeps side by side: winners by regime, and each workload that both have, matched by its sizes."""
    sides = [store.winners.of(s.id) for s in (first, second)]
    regimes = [{w.regime: w for w in side} for side in sides]
    names = [*regimes[0], *(n for n in regimes[1] if n not in regimes[0])]
    by_axes = [{(tuple(sorted(w.axes.items())), w.profile): w for r in side for w in r.workloads} for side in sides]
    shared = sorted(set(by_axes[0]) & set(by_axes[1]), key=lambda key: (tuple(v for _, v in key[0]), key[1]))
    return {
        "regimes": [{"name": n, "pair": [r.get(n) for r in regimes], "differs": _differs(n, regimes)} for n in names],
        "workloads": [
            {"axes": workload_text(dict(key[0]), key[1]), "pair": [side[key] for side in by_axes]} for key in shared
        ],
    }


def _differs(name: str, regimes: list[dict[str, Any]]) -> list[str]:
    """The parameters in which the two winners differ; empty if one sweep has no winner."""
    configs = [dict(r[name].config) for r in regimes if name in r]
    if len(configs) < 2:
        return []
    left, right = configs
    return [f"{k}: {left.get(k)} / {right.get(k)}" for k in left | right if left.get(k) != right.get(k)]
