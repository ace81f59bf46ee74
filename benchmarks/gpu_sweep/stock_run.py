"""The stage that runs stock flashinfer-bench on the Solutions that our workers judged."""

from __future__ import annotations

import functools
import importlib
import json
import shutil
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.gpu_sweep import agreement, variants
from benchmarks.gpu_sweep.context import Context
from workers.build import loader
from workers.build.artifact_cache import ArtifactCache, default_cache_dir
from workers.build.builder import BUILD_FILE
from workers.devices.environment import toolchain
from workers.devices.libraries import imported_names
from workers.fib import adapter as fib
from workers.fib import official_run as stock
from workers.fib.dataset import Document
from workers.fib.official_run import StockEffort, StockJob, StockRun
from workers.judge.outputs.rules import for_official_run, rules_for
from workers.records import Variant

_FIRST = (1, 16, 52, 57, 62, 80, 11948)
"""Sizes that are run first, in a call of their own, since a call that is cut off leaves no traces at all: about the mix
of small, middle and large that all 19 have."""

TUNED = "tuned_first"
_AGAIN = 2
"""Further runs of what is ordered otherwise."""

_AGAIN_WORKLOADS = 7
"""Of those with such pairs, the ones with the largest differences."""


def solutions(context: Context) -> list[Document]:
    """The 24 as Solutions, and what the first sweep exports."""
    tuned = variants.tuned(context, "first")
    chosen = [*variants.compared(context), *([tuned] if tuned else [])]
    return [json.loads(fib.solution(v, v.key).model_dump_json(exclude_none=True)) for v in chosen]


def parts(context: Context) -> list[tuple[str, ...]]:
    """Workload uuids of each call."""
    sizes = context.sizes()
    first = tuple(u for u, size in sizes.items() if size in _FIRST)
    rest = tuple(u for u in sizes if u not in first)
    return [p for p in (first, rest) if p]


def run(context: Context, effort: StockEffort) -> dict[str, Any]:
    """``flashinfer-bench run`` on all workloads, in two calls; the second is left out if the time will not do.

    It finds the Solutions compiled, see :func:`_place_compiled`.
    """
    began = time.perf_counter()
    documents = solutions(context)
    compiled = _place_compiled(context, documents)
    result: dict[str, Any] = {"effort": asdict(effort), "compiled": compiled, "solutions": len(documents), "calls": []}
    rows: list[dict[str, Any]] = []
    calls = parts(context)
    for number, uuids in enumerate(calls):
        left = context.limit_s - (time.perf_counter() - began)
        if number and left < result["calls"][0]["wall_s"] * len(uuids) / len(calls[0]) * 0.8:
            result["left_out"] = [context.sizes()[u] for u in uuids]
            break
        done = call(context, documents, uuids, number, left, effort)
        rows += [row(t) for t in done.traces]
        result["calls"].append({
            "workloads": len(uuids), "wall_s": done.seconds, "returncode": done.returncode,
            "traces": len(done.traces), "log": done.log[-1500:],
        })  # fmt: skip
        result |= {"rows": rows, "evaluations": len(rows)}
        context.save("stock", result)
        if done.returncode != 0:
            break
    walls = sum(c["wall_s"] for c in result["calls"])
    result["per_minute"] = len(rows) / walls * 60 if rows else 0.0
    tuned = [r["status"] for r in rows if r["solution"] == TUNED]
    if tuned:
        result["tuned"] = {"passed": tuned.count("PASSED"), "of": len(tuned)}
    return result


def again(context: Context, effort: StockEffort) -> dict[str, Any]:
    """More runs of what ``stock`` had in another order than ``eager``: does it have that order every time?

    Only the pairs in question, on the workloads with the largest differences.
    """
    began = time.perf_counter()
    found = agreement.orders(context.result("eager")["measurements"], context.result("stock")["rows"])
    worst = sorted((o for o in found if o.swapped), key=lambda o: -o.worst)[:_AGAIN_WORKLOADS]
    if not worst:
        return {"runs": []}
    names = {name for order in worst for pair in order.swapped for name in pair}
    documents = [d for d in solutions(context) if d["name"] in names]
    _place_compiled(context, documents)
    runs: list[list[dict[str, Any]]] = []
    for number in range(_AGAIN):
        left = context.limit_s - (time.perf_counter() - began)
        done = call(context, documents, tuple(o.workload for o in worst), len(parts(context)) + number, left, effort)
        if done.returncode != 0:
            return {"error": f"exit {done.returncode}: {done.log[-1000:]}", "runs": runs}
        runs.append([row(t) for t in done.traces])
        context.save("again", {"runs": runs})
    return {"runs": runs}


def call(
    context: Context, documents: list[Document], uuids: tuple[str, ...], number: int, left_s: float, effort: StockEffort
) -> StockRun:
    """One call of ``flashinfer-bench run`` on these workloads, of at most ``left_s`` seconds."""
    folder = context.work / f"stock-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    some = replace(context.problem, workloads=tuple(w for w in context.problem.workloads if w["uuid"] in uuids))
    stock.stage(some, documents, folder)
    rule = for_official_run(rules_for(context.problem.definition))
    job = StockJob(tuple(documents), rule, effort, timeout_s=max(left_s, 1.0))
    return stock.run(folder, context.definition, job, {"FIB_CACHE_PATH": str(context.work / "fib")})


def row(trace: Document) -> dict[str, Any]:
    """What is kept of a trace."""
    evaluation = trace["evaluation"]
    performance = evaluation.get("performance") or {}
    return {
        "solution": trace["solution"],
        "workload": trace["workload"]["uuid"],
        "status": evaluation["status"],
        "latency_us": 1e3 * performance["latency_ms"] if performance.get("latency_ms") else None,
        "reference_us": 1e3 * performance["reference_latency_ms"] if performance.get("reference_latency_ms") else None,
        "correctness": evaluation.get("correctness"),
    }


def _place_compiled(context: Context, documents: list[Document]) -> dict[str, Any]:
    """Put what our builders compiled from the very same sources where a Solution keeps what it compiles for itself.

    Stock flashinfer-bench then finds it as on a second run, and is not charged for compiling. A Solution that our cache
    does not hold compiles itself at its first call.
    """
    began = time.perf_counter()
    cache = ArtifactCache(default_cache_dir())
    scratch = context.work / "sources"
    sys.path.insert(0, str(scratch))
    placed, problems = 0, []
    for document in documents:
        try:
            placed += _place(context, fib.variant_of(document, context.target), cache, scratch)
        except Exception as error:  # it then compiles itself, which costs time and no result
            problems.append(f"{document['name']}: {type(error).__name__}: {error}")
    sys.path.remove(str(scratch))
    seconds = time.perf_counter() - began
    return {"placed": placed, "of": len(documents), "seconds": seconds, "problems": problems[:5]}


def _place(context: Context, variant: Variant, cache: ArtifactCache, scratch: Path) -> bool:
    """Whether there was something to place."""
    imports = imported_names(variant.sources, variant.dependencies)
    digest = cache.key(variant, toolchain(context.target, imports))
    entry = cache.get(digest)
    if entry is None or BUILD_FILE not in variant.sources:
        return False
    package = loader.package_name(digest)
    loader.stage_sources(variant, scratch / package)
    importlib.invalidate_caches()
    builder = importlib.import_module(f"{package}.build")
    artifacts = entry.folder / package / loader.ARTIFACTS
    builder.build = functools.partial(shutil.copytree, artifacts, dirs_exist_ok=True)
    # A planted fault has the original entry point under another name beside its own.
    (keeper,) = [path for path, text in variant.sources.items() if "def _cached(" in text]
    importlib.import_module(f"{package}.{Path(keeper).stem}")._cached(builder.LIBRARY)
    return True
