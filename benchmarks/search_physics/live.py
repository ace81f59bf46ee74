"""Two sweeps on a GPU, one without hand-made starts and one with, as their databases recorded them."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.search_physics.recorded import opened
from workers.build.builder import CPU_S

LONGEST = 15
"""Builders of a machine of 16 threads: as many first builds."""

SECONDS = (28, 38, 48, 58)
"""Of the search, at which its trials are counted: what its first minute went into."""


STEP_S = 5
"""Of the search, over which the driver's share is averaged."""


def live(without: Path, with_starts: Path, beside: Path | None = None) -> dict[str, Any]:
    """What the sweeps took, and their winners side by side.

    Args:
        without: Database of a sweep without starts.
        with_starts: Database of one with them; without ``beside`` its ``--baseline`` was the Solution of the first
            one's winners.
        beside: What ``tuner bench --json`` said of the Solutions of both, that without starts given first.
    """
    found: dict[str, Any] = {"without_starts": _sweep(without), "with_starts": _sweep(with_starts)}
    both = _summary(with_starts)["baseline"] if beside is None else json.loads(beside.read_text(encoding="utf-8"))
    (first, second), times = both["solutions"], {name: _medians(s) for name, s in both["solutions"].items()}
    rows = [
        {"tokens": tokens, "without_us": us, "with_us": times[second][tokens], "ratio": us / times[second][tokens]}
        for tokens, us in sorted(times[first].items())
    ]
    ratio = both["ratio_to_first"][second]
    return {
        **found,
        "side_by_side": rows,
        "rel_without_starts": 1 / ratio["ratio"] - 1,
        "rel_interval": [1 / ratio["high"] - 1, 1 / ratio["low"] - 1],
        "rel_worst": max(row["ratio"] for row in rows) - 1,
    }


def again(path: Path) -> dict[str, Any]:
    """What a later sweep without starts took, which need not have come to its end."""
    return _sweep(path)


def alone(path: Path, utilisation: Path) -> dict[str, Any]:
    """What a sweep took that had the machine for itself, and how busy the driver saw its GPU.

    Args:
        path: Its database.
        utilisation: CSV with ``time`` (seconds since 1970) and ``utilisation`` (per cent); it may be longer than it.
    """
    with opened(path) as database:
        first, last = database.execute("select min(started_at), max(finished_at) from trial").fetchone()
    with utilisation.open(encoding="utf-8") as file:
        shares = [(float(r["time"]), float(r["utilisation"]) / 100) for r in csv.DictReader(file)]
    in_search = [(t - first, share) for t, share in shares if first <= t <= last]
    by_time = [
        [share for s, share in in_search if low <= s < low + STEP_S] for low in range(0, int(last - first), STEP_S)
    ]
    usage = _summary(path)["evaluator"]["search"]
    return {
        **_sweep(path),
        "nvml_busy_search": mean(share for _, share in in_search),
        "nvml_busy_by_time": [mean(part) for part in by_time if part],
        "idle_s": usage["idle_s"],
        "busy_s": usage["candidate_s"] + usage["check_s"],
        "other_s": usage["evaluate_s"] - usage["candidate_s"] - usage["check_s"],
    }


def whole(path: Path) -> dict[str, Any]:
    """Whole runs of ours and of stock flashinfer-bench (stage ``whole`` of benchmarks.gpu_sweep)."""
    found = json.loads(path.read_text(encoding="utf-8"))
    ours, calls = found["ours"], found["stock"]["calls"]
    statuses = [build["status"] for build in ours["builds"].values()]
    return {
        **{key: value for key, value in found.items() if key not in ("ours", "stock")},
        "ours": {key: ours[key] for key in ("build_s", "evaluate_s", "total_s", "evaluations")},
        "variants": len(ours["variants"]),
        "built": statuses.count("BUILT"),
        "workloads": len({row["workload"] for row in found["stock"]["rows"]}),
        "calls": [{key: call[key] for key in ("variants", "wall_s", "traces", "returncode")} for call in calls],
    }


def _summary(path: Path) -> dict[str, Any]:
    with opened(path) as database:
        found: dict[str, Any] = json.loads(database.execute("select summary from sweep").fetchone()[0])
        return found


def _sweep(path: Path) -> dict[str, Any]:
    """Trials, seconds, and what its builders and its GPU did."""
    with opened(path) as database:
        times = database.execute("select started_at, finished_at, origin from trial order by finished_at").fetchall()
        builds = [s for (s,) in database.execute("select build_s from build order by build_s")]
        figures = [json.loads(text) for (text,) in database.execute("select figures from build")]
        first_build = database.execute("select build_s from build order by id").fetchone()[0]
        began, ended, budget_s, most = database.execute(
            "select started_at, finished_at, budget_s, max_trials from sweep"
        ).fetchone()
    cpu_s = [f[CPU_S] for f in figures if CPU_S in f]  # not of a build that crashed, nor of earlier versions
    first, last = min(start for start, *_ in times), times[-1][1]
    usage = _summary(path).get("evaluator", {}).get("search", {})  # none of a sweep that was interrupted
    middle = first + 60
    later = [end for _, end, _ in times if end > middle]
    return {
        "trials": len(times),
        "max_trials": most,
        "budget_s": budget_s,
        "first_build_s": first_build,
        "trials_after_s": {str(s): sum(end - first <= s for _, end, _ in times) for s in SECONDS},
        "sweep_s": ended - began,
        "search_s": last - first,
        "gpu_busy_search": usage.get("gpu_busy_share"),
        "longest_builds_s": builds[-LONGEST:][len(builds[-LONGEST:]) // 2],
        "builds_s": builds[len(builds) // 2],
        "build_cpu_s": sum(cpu_s) / len(cpu_s) if cpu_s else None,
        "trials_a_second_after_60_s": len(later) / (last - middle) if last > middle else None,
        "starts": sum(origin == "warm" for *_, origin in times),
    }


def _medians(solution: dict[str, Any]) -> dict[int, float]:
    """Tokens -> microseconds as a graph."""
    found = {}
    for measured in solution["workloads"].values():
        graph = measured.get("cuda_graph", measured)
        found[int(graph["axes"].removeprefix("seq_len="))] = float(graph["median_us"])
    assert all(math.isfinite(us) for us in found.values())
    return found
