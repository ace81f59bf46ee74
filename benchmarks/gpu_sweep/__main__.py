"""Command line of the campaign.

    python -m benchmarks.gpu_sweep campaign "setup:60 ; first:200 table:60" --dataset DIR --out DIR
    python -m benchmarks.gpu_sweep stage first --dataset DIR
    python -m benchmarks.gpu_sweep publish RESULTS.json ... --markdown FILE.md --json FILE.json

Stages: ``setup`` (routing tensors, baselines, versions), ``first`` and ``second`` (the same sweep twice),
``prebuild`` and ``busy`` (a random sweep whose variants are built before it), ``table``
(everything interleaved), ``baselines`` (the tuned Solution and all baselines, eagerly), ``throughput`` (24 variants by
our workers), ``eager`` (the same, timed as stock flashinfer-bench times), ``stock`` (the same by stock
flashinfer-bench), ``whole`` (whole runs of both, builds included, stock on a sample), ``again`` (by stock once more
what it ordered otherwise), ``scaling`` (one evaluator, two evaluators), ``faults``,
``record`` (many configs on eight workloads, as recordings).
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu_sweep import jobs, publish, record, stages, stock_run, whole_run
from benchmarks.gpu_sweep.campaign import Campaign, parse
from benchmarks.gpu_sweep.context import MAIN, Context
from workers.fib.official_run import StockEffort

STAGES: dict[str, Callable[[Context, argparse.Namespace], dict[str, Any]]] = {
    "setup": lambda c, a: stages.setup(c),
    "first": lambda c, a: stages.sweep(c, "first", 0, c.trials, a.builders, export=True),
    "second": lambda c, a: stages.sweep(c, "second", 0, c.trials, a.builders),
    "prebuild": lambda c, a: jobs.prebuild(c),
    "busy": lambda c, a: stages.sweep(c, "busy", jobs.BUSY_SEED, c.busy_trials, a.builders, sampler="random"),
    "table": lambda c, a: stages.table(c, a.rounds),
    "baselines": lambda c, a: stages.baselines(c, a.rounds),
    "throughput": lambda c, a: jobs.throughput(c, 1, 1, a.builders),
    "eager": lambda c, a: jobs.throughput(c, 1, 1, a.builders, "eager"),
    "stock": lambda c, a: stock_run.run(c, StockEffort()),
    "whole": lambda c, a: whole_run.run(c, a.builders, StockEffort()),
    "again": lambda c, a: stock_run.again(c, StockEffort()),
    "scaling": lambda c, a: jobs.scaling(c, a.builders),
    "faults": lambda c, a: jobs.planted_faults(c, a.fault_variants, a.planted),
    "record": lambda c, a: record.run(c, a.recorded, a.builders),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    campaign = commands.add_parser("campaign")
    campaign.add_argument("plan")
    campaign.add_argument("--out", type=Path, required=True)
    stage = commands.add_parser("stage")
    stage.add_argument("stage", choices=sorted(STAGES))
    for command in (campaign, stage):
        _context_flags(command)
    publish.add_arguments(commands.add_parser("publish"))
    args = parser.parse_args()
    if args.command == "publish":
        return publish.main(args)
    context = Context(
        target=args.target,
        dataset=args.dataset.resolve(),
        definition=args.definition,
        work=args.work.resolve(),
        trials=args.trials,
        busy_trials=args.busy_trials,
        compared=args.compared,
        budget_s=args.budget_s,
        limit_s=args.limit_s,
    )
    if args.command == "stage":
        return _stage(context, args)
    try:
        steps = parse(args.plan, sorted(STAGES))
    except ValueError as error:
        parser.error(str(error))
    Campaign(context, _flags(args), args.out.resolve()).run(steps)
    return 0


def _context_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", type=Path, required=True, help="a flashinfer-trace folder")
    parser.add_argument("--definition", default=MAIN)
    parser.add_argument("--target", default="sm_90a", help="cpu to rehearse")
    parser.add_argument("--work", type=Path, default=Path.home() / "gpu-campaign", help="folder that stages share")
    parser.add_argument("--trials", type=int, default=200, help="of a sweep")
    parser.add_argument("--busy-trials", type=int, default=200, help="of the random sweep on built variants")
    parser.add_argument("--compared", type=int, default=24, help="variants that stock flashinfer-bench gets as well")
    parser.add_argument("--budget-s", type=float, default=150.0, help="of a sweep")
    parser.add_argument("--builders", type=int, help="default: by the CPUs")
    parser.add_argument("--rounds", type=int, default=36, help="of an interleaved comparison")
    parser.add_argument("--fault-variants", type=int, default=200)
    parser.add_argument("--planted", type=int, default=50)
    parser.add_argument("--recorded", type=int, default=2500, help="configs of the stage `record`")
    parser.add_argument("--limit-s", type=float, default=560.0, help="seconds for everything")


def _flags(args: argparse.Namespace) -> list[str]:
    """The flags by which a stage gets the campaign's context."""
    names = (
        "dataset",
        "definition",
        "target",
        "work",
        "trials",
        "busy_trials",
        "compared",
        "budget_s",
        "rounds",
        "fault_variants",
        "planted",
        "recorded",
    )
    flags = [part for name in names for part in (f"--{name.replace('_', '-')}", str(getattr(args, name)))]
    return [*flags, *(["--builders", str(args.builders)] if args.builders else [])]


def _stage(context: Context, args: argparse.Namespace) -> int:
    """Run one stage and leave its result, or what it failed with, for the campaign."""
    context.work.mkdir(parents=True, exist_ok=True)
    began = time.time()
    try:
        result = STAGES[args.stage](context, args)
    except Exception:
        traceback.print_exc()
        result = {**context.result(args.stage), "error": traceback.format_exc()[-3000:]}
    context.save(args.stage, {**result, "stage_s": time.time() - began})
    return 1 if "error" in result else 0


if __name__ == "__main__":
    sys.exit(main())
