"""The stages that hand variants straight to the workers: throughput, two GPUs, planted faults."""

from __future__ import annotations

import queue
import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

from benchmarks.gpu_sweep import faults, variants
from benchmarks.gpu_sweep.context import Context
from search_spaces import Config
from tuner.settings import load
from tuner.sweeps.regimes import DEFAULT_BOUNDS, split
from tuner.sweeps.setup import resolve
from workers.build.artifact_cache import default_cache_dir
from workers.build.builder import VariantBuilder
from workers.cluster.ray_runner import RayRunner
from workers.devices.environment import cores
from workers.fib.dataset import Problem
from workers.records import BuildResult, Deadlines, Evaluation, EvaluationJob, Method, Status, Variant
from workers.runner import Runner

BUSY_SEED = 7
_NICE = 19
"""Of builds for later: they take what the stages beside them leave."""

_BUILD_MARGIN_S = 25.0
"""No build starts this short before the end: it takes up to 20 s where all cores build."""

_HARMED = 12
"""Good variants that faults are planted in: the first of the hand-picked ones, which are known to build."""

_FAULT_DEADLINE_S = 5.0
"""Several times what a check takes; a planted hang costs this much."""


def method(context: Context) -> Method:
    """How a sweep measures by default."""
    named = {"target": context.target, "dataset": context.dataset, "definition": context.definition}
    return resolve(load({**named, "db": f"sqlite:///{context.database('first')}"})).method


def build(runner: Runner, wanted: Sequence[Variant]) -> tuple[dict[str, BuildResult], float]:
    """Build all; results by key, and the seconds that it took."""
    began = time.perf_counter()
    built = runner.built(wanted)
    return built, time.perf_counter() - began


def evaluate(runner: Runner, jobs: Iterable[EvaluationJob]) -> tuple[list[Evaluation], float]:
    """Have all judged; outcomes in the order in which they ended, and the seconds."""
    began = time.perf_counter()
    left = 0
    for job in jobs:
        runner.submit_evaluation(job)
        left += 1
    done: list[Evaluation] = []
    while len(done) < left:
        done += [o for o in runner.wait(1.0) if isinstance(o, Evaluation)]
    return done, time.perf_counter() - began


def warm(runner: Runner, variant: Variant, built: BuildResult, problem: Problem, how: Method) -> float:
    """Seconds until every evaluator has judged something: imports, resident workloads, references."""
    assert built.artifact is not None
    quick = replace(how, max_samples=how.min_samples, budget_s=0.0, warmup_s=0.0)
    uuids = tuple(w["uuid"] for w in problem.workloads)
    jobs = [EvaluationJob(variant.built(built.artifact), uuids, quick) for _ in range(runner.evaluators)]
    return evaluate(runner, jobs)[1]


def prebuild(context: Context) -> dict[str, Any]:
    """Build what a random sweep of that seed will ask for: its builders then keep up, as a larger cluster's do."""
    began = time.perf_counter()
    wanted = variants.of_configs(context, variants.asked_at_random(context, BUSY_SEED))
    idle: queue.SimpleQueue[VariantBuilder] = queue.SimpleQueue()
    count = max(1, cores() - 2)
    builders = [
        VariantBuilder(context.problem.definition, context.target, str(default_cache_dir()), nice=_NICE)
        for _ in range(count)
    ]
    for builder in builders:
        builder.start()
        idle.put(builder)

    def one(variant: Variant) -> str:
        if time.perf_counter() - began > context.limit_s - _BUILD_MARGIN_S:
            return "left out"
        builder = idle.get()
        try:
            return builder.build(variant).status
        finally:
            idle.put(builder)

    try:
        with ThreadPoolExecutor(count) as pool:
            statuses = Counter(pool.map(one, wanted))
    finally:
        for builder in builders:
            builder.close()
    return {"variants": len(wanted), "statuses": dict(statuses), "seconds": time.perf_counter() - began}


def throughput(
    context: Context, evaluators: int, copies: int, builders: int | None, mode: str | None = None
) -> dict[str, Any]:
    """Judge the 24 variants on all workloads, as a sweep would without racing, on a number of evaluators.

    In a sweep's mode, or in another one: flashinfer-bench times eagerly, so what it says is compared with that.

    ``total_s`` counts from the start of Ray, ``evaluate_s`` from the moment at which everything is built and warm.
    """
    began = time.perf_counter()
    wanted = variants.compared(context)
    how = replace(method(context), mode=mode) if mode else method(context)
    regimes = split(context.sizes(), DEFAULT_BOUNDS)
    with_runner: dict[str, Any] = {"variants": [v.key for v in wanted], "evaluators": evaluators, "copies": copies}
    runner = RayRunner(context.problem, context.target, deadlines=Deadlines(), builders=builders, evaluators=evaluators)
    try:
        built, build_s = build(runner, wanted)
        ready = [v for v in wanted if built[v.key].artifact]
        if not ready:
            return {**with_runner, "error": "nothing was built", "log": built[wanted[0].key].log[-1000:]}
        warm_s = warm(runner, ready[0], built[ready[0].key], context.problem, how)
        # The slowest pieces first, so that no evaluator waits long for the last one.
        jobs = [
            EvaluationJob(replace(v, key=f"{v.key}@{r.name}#{i}").built(str(built[v.key].artifact)), r.workloads, how)
            for r in sorted(regimes, key=lambda r: -len(r.workloads))
            for i in range(copies)
            for v in ready
        ]
        done, evaluate_s = evaluate(runner, jobs)
    finally:
        runner.close()
    pairs = [(e, m) for e in done for m in e.measurements]
    first = [(e, m) for e, m in pairs if e.key.endswith("#0")]
    return {
        **with_runner,
        "builds": {k: {"status": b.status, "build_s": b.build_s, "cached": b.cached} for k, b in built.items()},
        "build_s": build_s,
        "warm_s": warm_s,
        "evaluate_s": evaluate_s,
        "total_s": time.perf_counter() - began,
        "evaluations": len(pairs),
        "per_minute": len(pairs) / evaluate_s * 60,
        "method": asdict(how),
        "measurements": [
            {"variant": e.key.partition("@")[0], "workload": m.workload, "status": m.status, "median_us": m.median_us,
             "low_us": m.low_us, "high_us": m.high_us, "samples": len(m.samples_us)}
            for e, m in first
        ],
        "conditions": [dict(m.conditions) for _, m in first[:: max(1, len(first) // 40)]],
    }  # fmt: skip


def scaling(context: Context, builders: int | None) -> dict[str, Any]:
    """The same jobs on one evaluator, and twice as many on two."""
    one = throughput(context, 1, 1, builders)
    context.save("throughput", one)  # the very same measurement
    context.save("scaling", {"one": _without_rows(one)})
    two = throughput(context, 2, 2, builders)
    speedup = two.get("per_minute", 0.0) / one["per_minute"] if one.get("per_minute") else None
    return {"one": _without_rows(one), "two": _without_rows(two), "speedup": speedup}


def _without_rows(document: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in document.items() if k not in ("measurements", "conditions", "builds")}


def _built(context: Context) -> list[Config]:
    """What the campaign's sweeps measured completely, and what was built for the random one."""
    swept = [config for name in ("first", "second") for config in context.configs(name)]
    prebuilt = (context.work / "results" / "prebuild.json").exists()
    return [*swept, *(variants.asked_at_random(context, BUSY_SEED) if prebuilt else ())]


def planted_faults(context: Context, total: int, planted: int, workloads: int = 3) -> dict[str, Any]:
    """Planted faults among good variants in random order: who got which status, and whether every record came back.

    The smallest workloads are enough here, and keep the price of a replaced process low.
    """
    uuids = tuple(list(context.sizes())[:workloads])
    problem = replace(context.problem, workloads=tuple(w for w in context.problem.workloads if w["uuid"] in uuids))
    good = variants.of_configs(context, variants.good(context, total - planted, built=_built(context)))
    kinds = faults.chosen(planted)
    bad = {
        f"planted_{i}_{kind}_at_{at}": faults.faulty(good[i % min(len(good), _HARMED)], kind, at)
        for i, (kind, at) in enumerate(kinds)
    }
    right = {key: faults.expected(kind, at) for key, (kind, at) in zip(bad, kinds, strict=True)}
    bad = {key: replace(variant, key=key) for key, variant in bad.items()}
    everyone = [*good, *bad.values()]
    random.Random(0).shuffle(everyone)
    limits = Deadlines(check_s=_FAULT_DEADLINE_S, measure_s=_FAULT_DEADLINE_S)
    runner = RayRunner(problem, context.target, deadlines=limits, evaluators=1)
    try:
        built, build_s = build(runner, everyone)
        jobs = [
            EvaluationJob(v.built(str(built[v.key].artifact)), uuids, method(context))
            for v in everyone
            if built[v.key].artifact
        ]
        done, evaluate_s = evaluate(runner, jobs)
    finally:
        runner.close()
    ended = {k: (b.status, b.log) for k, b in built.items() if not b.artifact}
    ended |= {e.key: (e.status, e.message) for e in done}
    measured = {e.key: sum(m.status is Status.PASSED for m in e.measurements) for e in done}
    rejected = [v.key for v in good if ended[v.key][0] is Status.REJECTED]
    kept = [v.key for v in good if v.key not in rejected]
    return {
        "variants": len(everyone),
        "planted": len(bad),
        "good": len(kept),
        "rejected_at_build": len(rejected),
        "good_with_all_records": sum(ended[k][0] is Status.PASSED and measured.get(k) == len(uuids) for k in kept),
        "good_blamed": [
            {"key": k, "status": ended[k][0], "message": ended[k][1][-400:]}
            for k in kept
            if ended[k][0] is not Status.PASSED
        ],
        "planted_named": sum(ended[k][0] is status for k, status in right.items()),
        "planted_otherwise": [
            {"key": k, "status": ended[k][0], "expected": status, "message": ended[k][1][-400:]}
            for k, status in right.items()
            if ended[k][0] is not status
        ],
        "kinds": sorted({kind for kind, _ in kinds}),
        "build_s": build_s,
        "evaluate_s": evaluate_s,
    }  # fmt: skip
