"""The stage that holds a whole run of ours against a whole run of stock flashinfer-bench: builds, starts, everything.

Stock flashinfer-bench judges one Solution after the other and compiles each when it first calls it, so its time is a
constant and so much for each Solution. It runs a sample, in two calls of different length, which tell both.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import Any

from benchmarks.gpu_sweep import jobs, stock_run, variants
from benchmarks.gpu_sweep.context import Context
from workers.fib import adapter as fib
from workers.fib.official_run import StockEffort, StockRun
from workers.records import Variant

SAMPLE = 8
"""Variants that stock flashinfer-bench runs, the planted wrong ones among them."""
FIRST = 2
"""Of them in its first call."""


def run(context: Context, builders: int | None, effort: StockEffort) -> dict[str, Any]:
    """All variants by ours, with the artifact cache as it is found; the sample by stock, compiled by itself."""
    ours = jobs.throughput(context, 1, 1, builders)
    result: dict[str, Any] = {"ours": {k: v for k, v in ours.items() if k not in ("conditions", "measurements")}}
    context.save("whole", result)
    chosen = _sample(variants.compared(context))
    calls, rows = [], []
    for number, part in enumerate((chosen[:FIRST], chosen[FIRST:])):
        done = _stock(context, part, number, effort)
        rows += [stock_run.row(t) for t in done.traces]
        calls.append({"variants": len(part), "wall_s": done.seconds, "traces": len(done.traces),
                      "returncode": done.returncode, "log": done.log[-1500:]})  # fmt: skip
        result["stock"] = {"calls": calls, "rows": rows, "sample": [v.key for v in chosen]}
        context.save("whole", result)
    return result | _compared(result, ours.get("measurements", []))


def _sample(wanted: list[Variant]) -> list[Variant]:
    """Evenly over the good ones, then the planted ones."""
    good = [v for v in wanted if not v.key.startswith("planted_")]
    planted = [v for v in wanted if v.key.startswith("planted_")]
    count = SAMPLE - len(planted)
    return [*(good[i * len(good) // count] for i in range(count)), *planted]


def _stock(context: Context, part: list[Variant], number: int, effort: StockEffort) -> StockRun:
    """One call, with a cache of its own for what Solutions compile for themselves."""
    cache = context.work / f"compiled-{number}"
    shutil.rmtree(cache, ignore_errors=True)
    documents = [json.loads(fib.solution(v, v.key).model_dump_json(exclude_none=True)) for v in part]
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(cache)
    try:
        return stock_run.call(context, documents, tuple(context.sizes()), number, context.limit_s, effort)
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
    stock_s, ours_s = constant_s + each_s * count, result["ours"].get("total_s")
    ours = {(m["variant"], m["workload"]): m["status"] for m in measured}
    both = [(row["status"], ours.get((row["solution"], row["workload"]))) for row in rows]
    return {
        "variants": count,
        "ours_s": ours_s,
        "stock_each_s": each_s,
        "stock_constant_s": constant_s,
        "stock_s_extrapolated": stock_s,
        "vs_stock_whole_run": stock_s / ours_s if ours_s else None,
        "verdicts": len(both),
        "not_judged_by_ours": sum(theirs is None for _, theirs in both),
        "verdicts_differ": sum(theirs is not None and said != theirs for said, theirs in both),
    }
