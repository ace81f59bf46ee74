"""The stages of the campaign that go through the command line: setup, the two sweeps, the interleaved table."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import time
from importlib import metadata
from typing import Any

from benchmarks.gpu_sweep import variants
from benchmarks.gpu_sweep.context import ROOT, Context
from benchmarks.public_dataset import with_routing
from db.store import Store
from workers.fib import adapter as fib
from workers.records import Variant

_PACKAGES = (
    "torch", "triton", "nvidia-cutlass-dsl", "apache-tvm-ffi", "flashinfer-bench", "ray", "optuna", "sqlalchemy",
    "sgl-deep-gemm",
)  # fmt: skip
_NVRTC = (
    "import torch; k = torch.cuda._compile_kernel('extern \"C\" __global__ void f(float* x) { x[0] = 7.f; }', 'f'); "
    "x = torch.zeros(8, device='cuda'); k(grid=(1, 1, 1), block=(1, 1, 1), args=[x]); print(x[0].item() == 7.0)"
)


def setup(context: Context) -> dict[str, Any]:
    """Make the routing tensors and the baselines' Solutions; say what is here and what is missing."""
    result: dict[str, Any] = {"versions": _versions(), "python": sys.version.split()[0]}
    result["blobs"] = f"{with_routing(context.dataset)} made"
    if context.target != "cpu":
        make = [sys.executable, str(ROOT / "benchmarks" / "baselines" / "make.py"), "--dataset", str(context.dataset)]
        result["baselines"] = _output([*make, "--definition", context.definition, "--out", str(context.dataset)])
        query = "--query-gpu=name,memory.total,driver_version,clocks.max.sm,power.limit"
        result["gpus"] = _output(["nvidia-smi", query, "--format=csv,noheader"])
        result["nvrtc"] = _output([sys.executable, "-c", _NVRTC])
    result["tools"] = {name: shutil.which(name) for name in ("gcc", "nvcc", "ptxas")}
    result["workloads"] = len(context.problem.workloads)
    return result


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    found["deep_gemm"] = "importable" if importlib.util.find_spec("deep_gemm") else None
    return found


def _output(command: list[str], timeout_s: float = 120.0) -> str:
    """The end of a command's output, or why there is none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}: {error}"
    return (done.stdout if done.returncode == 0 else f"exit {done.returncode}: {done.stdout}{done.stderr}")[-2000:]


def sweep(
    context: Context,
    name: str,
    seed: int,
    trials: int,
    builders: int | None,
    *,
    export: bool = False,
    sampler: str = "auto",
) -> dict[str, Any]:
    """One sweep on a database of its own; with ``export`` up to a Solution that stock flashinfer-bench has passed."""
    arguments = [
        "sweep", "--target", context.target, "--dataset", str(context.dataset), "--definition", context.definition,
        "--max-trials", str(trials), "--budget-s", str(context.budget_s), "--seed", str(seed),
        "--sampler", sampler,
        *(["--out", str(context.work / f"export-{name}")] if export else ["--no-export"]),
        *(["--builders", str(builders)] if builders else []),
    ]  # fmt: skip
    document = context.tuner(arguments, sweep=name, timeout_s=context.limit_s, log=f"sweep-{name}")
    document["seed"] = seed
    document["records"] = _records(context, name)
    return document


def _records(context: Context, name: str) -> dict[str, Any]:
    """What the database says about a sweep that a table of results needs."""
    if not context.database(name).exists():
        return {}
    store = Store.open(f"sqlite:///{context.database(name)}")
    try:
        record = store.sweeps.get(1)
        trials = store.trials.of(1)
    finally:
        store.close()
    builds = [t.build for t in trials if t.build is not None]
    origins: dict[str, int] = {}
    states: dict[str, int] = {}
    for trial in trials:
        origins[trial.origin] = origins.get(trial.origin, 0) + 1
        states[trial.state] = states.get(trial.state, 0) + 1
    return {
        "state": record.state,
        "summary": dict(record.summary),
        "states": states,
        "origins": origins,
        "evaluations": sum(len(t.measurements) for t in trials),
        "searched": [min((t.started_at for t in trials), default=0), max((t.finished_at for t in trials), default=0)],
        "build_s": {"count": len(builds), "sum": sum(b.build_s for b in builds)},
        "failures": [
            {"config": dict(t.config), "state": t.state, "message": t.reason[-300:]}
            for t in trials
            if t.state not in ("PASSED", "RACED_OUT", "REJECTED")
        ][:40],
    }  # fmt: skip


def table(context: Context, rounds: int) -> dict[str, Any]:
    """Everything that has a place in the per-workload table, in one interleaved run."""
    candidates = [v for name in ("first", "second") if (v := variants.tuned(context, name)) is not None]
    candidates += variants.single_configs(context, "first").values()
    given = [_file(context, v) for v in candidates]
    if context.database("first").exists():
        given.append("default")
    if context.target != "cpu":
        given += [str(p) for p in sorted(context.dataset.glob("solutions/baseline/moe/*/baseline_triton_*.json"))]
    if len(given) < 2:
        return {"error": "no sweep has winners"}
    return _bench(context, given, ["--rounds", str(rounds)], "table")


def baselines(context: Context, rounds: int) -> dict[str, Any]:
    """All baselines beside the tuned Solution, eagerly: DeepGEMM reads a number back, which no graph can hold."""
    tuned = variants.tuned(context, "first")
    found = sorted(context.dataset.glob("solutions/baseline/moe/*/baseline_*.json"))
    if tuned is None or not found:
        return {"error": "needs the first sweep's winners and the baselines"}
    given = [_file(context, tuned), *map(str, found)]
    return _bench(context, given, ["--rounds", str(rounds), "--mode", "eager"], "baselines")


def _bench(context: Context, given: list[str], flags: list[str], log: str) -> dict[str, Any]:
    arguments = ["bench", *given, "--target", context.target, "--dataset", str(context.dataset)]
    arguments += ["--definition", context.definition, *flags]
    return _slim(context.tuner(arguments, sweep="first", timeout_s=context.limit_s, log=log))


def _file(context: Context, variant: Variant) -> str:
    """The variant as a Solution file."""
    path = context.work / "solutions" / f"{variant.key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(fib.solution(variant, variant.key).model_dump_json(exclude_none=True))
    return str(path)


def _slim(document: dict[str, Any]) -> dict[str, Any]:
    """Without the samples, which stay in no result: medians and intervals are what the table shows."""
    for solution in document.get("solutions", {}).values():
        for row in solution["workloads"].values():
            row["samples"] = len(row.pop("samples_us", []))
    document["finished"] = time.time()
    return document
