"""The stage that holds a whole run of ours against a whole run of stock flashinfer-bench: builds, starts, everything.

Stock flashinfer-bench judges one Solution after the other and compiles each when it first calls it, so its time is a
constant and so much for each Solution. It runs a sample, in two calls of different length, which tell both. The planted
wrong ones, which it does not time, are in a third call: they would make the others look cheap.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from benchmarks.gpu_sweep import jobs, stock_run, variants
from benchmarks.gpu_sweep.context import Context
from workers.cluster.ray_runner import RayRunner
from workers.devices.libraries import imported_names
from workers.fib import adapter as fib
from workers.fib.dataset import Problem
from workers.fib.official_run import StockEffort, StockRun
from workers.records import BuildResult, Evaluation, EvaluationJob, Variant

SIZES = (1, 15, 57, 901, 11948)
"""Of the workloads; all of a definition that has none of them. Stock times the reference anew on each, for seconds."""
FIRST = 2
"""Good variants in stock's first call."""
MOST = 6
"""In its second one, if the time will do."""


def run(context: Context, builders: int | None, effort: StockEffort) -> dict[str, Any]:
    """All variants by ours, with the artifact cache as it is found; the sample by stock, compiled by itself."""
    began = time.perf_counter()
    wanted = variants.compared(context)
    problem = _some(context)
    ours = judged_as_built(context, problem, wanted, builders)
    result: dict[str, Any] = {"ours": ours, "stock": {"calls": [], "rows": [], "planted": None}}
    context.save("whole", result)
    good, planted = _sample(wanted, [k for k, b in ours["builds"].items() if b["status"] == "BUILT"])
    found = result["stock"]

    def call(part: Sequence[Variant], number: int) -> dict[str, Any]:
        left = context.limit_s - (time.perf_counter() - began)
        done = _stock(context, problem, list(part), number, left, effort)
        found["rows"] += [stock_run.row(t) for t in done.traces]
        return {"variants": len(part), "wall_s": done.seconds, "traces": len(done.traces),
                "returncode": done.returncode, "log": done.log[-1500:]}  # fmt: skip

    def save(**more: Any) -> dict[str, Any]:
        result.update(more)
        context.save("whole", result)
        return result

    found["calls"].append(call(good[:FIRST], 0))
    save()
    left = context.limit_s - (time.perf_counter() - began)
    count = in_time(found["calls"][0]["wall_s"], left, len(good) - FIRST)
    if count <= FIRST or found["calls"][0]["returncode"] != 0:
        return save(error="stock's first call failed, or its second one would not end in time")
    found["calls"].append(call(good[FIRST : FIRST + count], 1))
    if found["calls"][1]["returncode"] != 0:
        return save(error="stock's second call failed or did not end in time")
    save(**_compared(result, ours["measurements"]))
    found["planted"] = call(planted, 2)
    return save(**_compared(result, ours["measurements"]))


def in_time(first_s: float, left_s: float, most: int) -> int:
    """Variants for the second call, which ends in time even if the first one's seconds all went into its variants."""
    return min(MOST, most, int(0.9 * left_s / first_s * FIRST))


def _some(context: Context) -> Problem:
    """The problem with workloads of :data:`SIZES`."""
    of_size = {u for u, size in context.sizes().items() if size in SIZES} or set(context.sizes())
    return replace(context.problem, workloads=tuple(w for w in context.problem.workloads if w["uuid"] in of_size))


def judged_as_built(
    context: Context, problem: Problem, wanted: Sequence[Variant], builders: int | None
) -> dict[str, Any]:
    """Judge variants on all workloads of the problem, each as soon as it is built, as a sweep without racing does.

    ``total_s`` counts from the start of Ray, ``build_s`` to the last build, ``evaluate_s`` from the first evaluation
    that ended to the last one.
    """
    began = time.perf_counter()
    how, by_key = jobs.method(context), {v.key: v for v in wanted}
    uuids = tuple(w["uuid"] for w in problem.workloads)
    builds: dict[str, BuildResult] = {}
    done: list[tuple[float, Evaluation]] = []
    build_s, left = 0.0, 0
    imports = imported_names(context.space.sources, context.space.dependencies)
    runner = RayRunner(problem, context.target, builders=builders, evaluators=1, imports=imports)
    try:
        for variant in wanted:
            runner.submit_build(variant)
        while len(builds) < len(wanted) or len(done) < left:
            for outcome in runner.wait(1.0):
                if isinstance(outcome, BuildResult):
                    builds[outcome.key], build_s = outcome, time.perf_counter() - began
                    if outcome.artifact:
                        left += 1
                        variant = by_key[outcome.key].built(outcome.artifact)
                        runner.submit_evaluation(EvaluationJob(variant, uuids, how))
                elif isinstance(outcome, Evaluation):
                    done.append((time.perf_counter(), outcome))
    finally:
        runner.close()
    rows = [(e, m) for _, e in done for m in e.measurements]
    return {
        "variants": list(by_key),
        "workloads": list(uuids),
        "builds": {k: {"status": b.status, "build_s": b.build_s, "cached": b.cached} for k, b in builds.items()},
        "build_s": build_s,
        "evaluate_s": done[-1][0] - done[0][0] if done else 0.0,
        "total_s": time.perf_counter() - began,
        "evaluations": len(rows),
        "method": asdict(how),
        "measurements": [
            {"variant": e.key, "workload": m.workload, "status": m.status, "median_us": m.median_us} for e, m in rows
        ],
    }  # fmt: skip


def _sample(wanted: Sequence[Variant], built: Sequence[str]) -> tuple[list[Variant], list[Variant]]:
    """Good ones evenly over those that ours built, since only these have a verdict of ours, and the planted ones."""
    good = [v for v in wanted if not v.key.startswith("planted_") and v.key in built]
    count = min(FIRST + MOST, len(good))
    chosen = [good[i * len(good) // count] for i in range(count)]
    return chosen, [v for v in wanted if v.key.startswith("planted_")]


def _stock(
    context: Context, problem: Problem, part: list[Variant], number: int, left_s: float, effort: StockEffort
) -> StockRun:
    """One call, with a cache of its own for what Solutions compile for themselves."""
    cache = context.work / f"compiled-{number}"
    shutil.rmtree(cache, ignore_errors=True)
    documents = [json.loads(fib.solution(v, v.key).model_dump_json(exclude_none=True)) for v in part]
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(cache)
    try:
        uuids = tuple(w["uuid"] for w in problem.workloads)
        return stock_run.call(context, documents, uuids, number, left_s, effort)
    finally:
        os.environ.pop("XDG_CACHE_HOME")
        if before is not None:
            os.environ["XDG_CACHE_HOME"] = before


def _compared(result: dict[str, Any], measured: list[dict[str, Any]]) -> dict[str, Any]:
    """Seconds of both for all variants, and the verdicts on the sample."""
    (short, long), rows = result["stock"]["calls"], result["stock"]["rows"]
    each_s = (long["wall_s"] - short["wall_s"]) / (long["variants"] - short["variants"])
    constant_s = short["wall_s"] - each_s * short["variants"]
    count = len(result["ours"]["variants"])
    timed = sum(not key.startswith("planted_") for key in result["ours"]["variants"])
    planted = result["stock"]["planted"]
    wrong_s = max(0.0, planted["wall_s"] - constant_s) if planted and planted["returncode"] == 0 else 0.0
    stock_s, ours_s = constant_s + each_s * timed + wrong_s, result["ours"].get("total_s")
    ours = {(m["variant"], m["workload"]): m["status"] for m in measured}
    both = [(row["status"], ours.get((row["solution"], row["workload"]))) for row in rows]
    return {
        "variants": count,
        "ours_s": ours_s,
        "stock_each_s": each_s,
        "stock_constant_s": constant_s,
        "stock_wrong_s": wrong_s,
        "stock_s_extrapolated": stock_s,
        "vs_stock_whole_run": stock_s / ours_s if ours_s else None,
        "verdicts": len(both),
        "not_judged_by_ours": sum(theirs is None for _, theirs in both),
        "verdicts_differ": sum(theirs is not None and said != theirs for said, theirs in both),
    }
