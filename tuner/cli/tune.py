"""Commands that build and measure: sweep, bench, compile."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuner.cli import options
from tuner.cli.output import print_json, results, stderr, stdout
from tuner.format import config_text, microseconds, ratio
from workers.devices.targets import is_cuda

if TYPE_CHECKING:
    from tuner.settings import SweepSettings
    from tuner.sweeps.per_accelerator import KindResult

OUT_DEFAULT = Path("tuner-out")


def sweep(
    definition: options.Definition = None,
    space: options.Space = None,
    dataset: options.Dataset = None,
    target: options.Target = None,
    max_trials: Annotated[str | None, typer.Option(help="trials over all regimes, or 'auto'")] = None,
    budget_s: Annotated[float | None, typer.Option(help="seconds of wall time, finals included")] = None,
    resume: Annotated[int | None, typer.Option(help="ID of a sweep to go on with")] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="with --resume: try again what hung, crashed or lost its worker")
    ] = False,
    sampler: Annotated[str | None, typer.Option(help="auto, tpe, gp, random or grid")] = None,
    seed: Annotated[int | None, typer.Option(help="seed of the search")] = None,
    size_axis: Annotated[
        str | None, typer.Option(help="variable axis that decides the config; default: the space's")
    ] = None,
    regimes: Annotated[str | None, typer.Option(help="largest size of each regime but the last: 16,256,2048")] = None,
    workload: Annotated[list[str] | None, typer.Option(help="only this workload uuid or prefix; repeatable")] = None,
    profiles: Annotated[
        str | None, typer.Option(help="what inputs look like: recorded,uniform,zipf:0.8,hot:3; weights in YAML")
    ] = None,
    sizes: Annotated[str | None, typer.Option(help="sizes beside the listed ones: auto, listed, or 1,2,4")] = None,
    mode: Annotated[str | None, typer.Option(help="on a GPU: auto, graph or eager")] = None,
    rtol: options.Rtol = None,
    atol: options.Atol = None,
    required_matched_ratio: options.MatchedRatio = None,
    judge: options.JudgeBy = None,
    builders: Annotated[int | None, typer.Option(help="builds at once")] = None,
    evaluators: Annotated[int | None, typer.Option(help="evaluations at once")] = None,
    ray_address: Annotated[str | None, typer.Option(help="Ray cluster; default: RAY_ADDRESS, else a local one")] = None,
    accelerators: Annotated[
        str | None, typer.Option(help="kinds of machine in the cluster, such as H200,B200: a sweep on each")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with these settings and more")] = None,
    db: options.Db = None,
    out: Annotated[
        Path, typer.Option(help="flashinfer-trace folder that the best Solution is written into")
    ] = OUT_DEFAULT,
    no_export: Annotated[bool, typer.Option("--no-export", help="do not write a Solution at the end")] = False,
    no_reuse: Annotated[bool, typer.Option("--no-reuse", help="measure again what the database already has")] = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="do not stop where the first trials all fail for the same reason")
    ] = False,
    ticket: Annotated[
        str | None, typer.Option(hidden=True, help="how a server recognises the sweep it started")
    ] = None,
    json: options.Json = False,
) -> None:
    """Search for the fastest correct config of each regime and write the best ones as one Solution."""
    results()
    from tuner.cli.progress import SweepView
    from tuner.settings import load
    from tuner.sweeps.run import run_sweep

    given: dict[str, Any] = {
        "definition": definition, "space": space, "dataset": dataset, "target": target, "budget_s": budget_s,
        "max_trials": _trials(max_trials), "sampler": sampler, "seed": seed, "mode": mode, "builders": builders,
        "evaluators": evaluators, "ray_address": ray_address, "db": db, "reuse": False if no_reuse else None,
        "keep_going": keep_going or None,
        "regimes": _bounds(regimes), "size_axis": size_axis, "workloads": tuple(workload) if workload else None,
        "accelerators": _kinds(accelerators), "profiles": profiles, "sizes": sizes,
        **options.tolerances(rtol, atol, required_matched_ratio, judge),
    }  # fmt: skip
    settings = load(given, config)
    if len(settings.accelerators) > 1:
        words = ["--no-export"] if no_export else ["--out", str(out)]
        raise typer.Exit(_sweep_on_each(settings, resume, words, json))
    with SweepView() as view:
        report = run_sweep(
            settings,
            resume=resume,
            out=None if no_export else out,
            view=view,
            ticket=ticket,
            retry_failed=retry_failed,
        )
    if json:
        print_json(report.document())
    else:
        _print_sweep(report)
    if report.export_failure is not None:
        raise report.export_failure
    raise typer.Exit(report.exit_code)


def _kinds(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _sweep_on_each(settings: SweepSettings, resume: int | None, words: list[str], json: bool) -> int:
    """Sweep on several kinds of machine and print the output of each, in the order in which they were given."""
    from tuner.errors import UsageError
    from tuner.sweeps.per_accelerator import exit_code, run_on_each

    if resume is not None:
        raise UsageError("--resume goes on with the sweep of one kind of machine; leave --accelerators out")
    found = run_on_each(settings, [*words, *(["--json"] if json else [])], lambda line: stderr().print(line))
    if json:
        print_json({"sweeps": [_document(result) for result in found]})
    else:
        for result in found:
            stdout().print(f"== {result.accelerator}")
            stdout().print(result.output, end="", markup=False, highlight=False)
    return exit_code(found)


def _document(result: KindResult) -> dict[str, Any]:
    from json import loads

    document = loads(result.output) if result.output.strip() else {}
    return {"accelerator": result.accelerator, "exit_code": result.exit_code, **document}


def _trials(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.lstrip("-").isdigit() else text


def _bounds(text: str | None) -> tuple[int, ...] | None:
    from tuner.errors import UsageError

    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UsageError(f"--regimes {text!r} must be numbers with commas between, such as 16,256,2048") from None


def _print_sweep(report: Any) -> None:
    from rich.table import Table

    console = stdout()
    console.print(
        f"sweep {report.sweep_id}: {report.trials} trials of {report.space} for {report.definition} "
        f"on {report.hardware}"
    )
    if not report.winners:
        for reason in report.reasons:
            console.print(reason, markup=False)
        for why in report.left_out:
            console.print(f"left out: {why}", markup=False)
        early = "; stopped, as the first trials all failed alike (--keep-going goes on)" if report.stopped_early else ""
        console.print(f"no config passed{early}; `tuner status {report.sweep_id}` shows all trials")
        return
    table = Table("regime", "best", "default", "over default", "over reference")
    for w in report.winners:
        table.add_row(
            w.regime,
            microseconds(w.median_us),
            microseconds(w.default_median_us),
            ratio(w.default_median_us, w.median_us),
            ratio(report.reference_us.get(w.regime), w.median_us),
        )
    console.print(table)
    if report.reference_us and is_cuda(report.target):
        console.print("the reference is timed eagerly: its figure holds its host time")
    console.print("best config of each regime, where it differs from the default:")
    for w in report.winners:
        changed = {k: v for k, v in w.config.items() if report.default_config.get(k) != v}
        console.print(f"  {w.regime}: {config_text(changed) or 'the default'}")
    for regime, refused in report.refused.items():
        for config_hash, why in refused.items():
            console.print(f"  {regime}: the guard refused {config_hash}: {why}", markup=False)
    if report.export is not None:
        console.print(f"Solution {report.export.name} written to {report.export.path}, {report.export.verdict}")
    if report.export_failure is not None:
        console.print(f"the winners are kept, but no Solution was written; go on with: {report.export_command}")
    for why in report.left_out:
        console.print(f"left out: {why}", markup=False)
    console.print(f"ask for it: tuner best --definition {report.definition} {report.example_axes}")


def bench(
    solutions: Annotated[
        list[str], typer.Argument(help="Solution names in the dataset, JSON files, or 'default'/'best'")
    ],
    definition: options.Definition = None,
    dataset: options.Dataset = None,
    space: options.Space = None,
    target: options.Target = None,
    workload: Annotated[list[str] | None, typer.Option(help="only this workload uuid or prefix; repeatable")] = None,
    rounds: Annotated[int, typer.Option(min=6, help="interleaved rounds")] = 36,
    mode: Annotated[str | None, typer.Option(help="on a GPU: auto, graph or eager")] = None,
    rtol: options.Rtol = None,
    atol: options.Atol = None,
    required_matched_ratio: options.MatchedRatio = None,
    judge: options.JudgeBy = None,
    seed: Annotated[int, typer.Option(help="seed of the order within rounds")] = 0,
    compile_s: Annotated[float | None, typer.Option(help="most seconds that a build may take")] = None,
    check_s: Annotated[float | None, typer.Option(help="most seconds to load and check, on each workload")] = None,
    measure_s: Annotated[float | None, typer.Option(help="most seconds to measure, on each workload")] = None,
    ray_address: Annotated[str | None, typer.Option(help="Ray cluster; default: RAY_ADDRESS, else a local one")] = None,
    db: options.Db = None,
    json: options.Json = False,
) -> None:
    """Measure Solutions side by side, interleaved, so that differences are paired."""
    results()
    from tuner.cli.steps import StepView
    from tuner.commands.bench import run_bench
    from tuner.settings import load

    settings = load({
        "definition": definition, "dataset": dataset, "space": space, "target": target, "ray_address": ray_address,
        "db": db,
        "workloads": tuple(workload) if workload else None, "seed": seed, "mode": mode,
        "compile_s": compile_s, "check_s": check_s, "measure_s": measure_s,
        **options.tolerances(rtol, atol, required_matched_ratio, judge),
    })  # fmt: skip
    with StepView() as view:
        result = run_bench(settings, solutions, rounds, view)
    if json:
        print_json(result.document())
    else:
        from rich.table import Table

        table = Table("workload", *result.names)
        for axes, row in result.rows():
            table.add_row(axes, *row)
        stdout().print(table)
        for line in result.verdicts():
            stdout().print(line, markup=False)
        if result.interrupted:
            stderr().print("interrupted: the table holds what was measured until then")
    raise typer.Exit(result.exit_code)


def compile_(
    space: options.Space = None,
    target: options.Target = None,
    sample: Annotated[
        int, typer.Option(min=1, help="number of configs, spread over the space; the default is the first")
    ] = 10,
    definition: options.Definition = None,
    dataset: options.Dataset = None,
    seed: Annotated[int, typer.Option(help="seed of the sample")] = 0,
    jobs: Annotated[int | None, typer.Option(min=1, help="builds at once; default: the cores")] = None,
    json: options.Json = False,
) -> None:
    """Build a sample of a space's configs without running them, and show what they need."""
    results()
    from tuner.cli.steps import StepView
    from tuner.commands.compile import compile_sample
    from tuner.format import first_line
    from tuner.settings import load

    settings = load({"space": space, "target": target, "definition": definition, "dataset": dataset, "seed": seed})
    with StepView() as view:
        result = compile_sample(settings, sample, jobs, view)
    if json:
        print_json(result.document())
    else:
        from rich.table import Table

        table = Table("status", "build s", "registers", "spill bytes", "smem bytes", "config")
        for v in result.variants:
            cells = (v["registers"], v["spill_bytes"], v["smem_bytes"])
            table.add_row(
                v["status"],
                f"{v['build_s']:.2f}",
                *("-" if c is None else str(c) for c in cells),
                config_text(v["config"]),
            )
        stdout().print(table)
        stdout().print(f"{result.built} of {len(result.variants)} built in {result.wall_s:.1f} s")
        reasons = Counter((v["status"], first_line(v["log"])) for v in result.variants if v["log"])
        for (status, why), count in reasons.most_common():
            stdout().print(f"{count} {status}: {why}", markup=False, soft_wrap=True)
    raise typer.Exit(result.exit_code)


def verify(
    space: options.Space = None,
    target: options.Target = None,
    sample: Annotated[int, typer.Option(min=1, help="number of configs, spread over the space")] = 1,
    sweep_id: Annotated[int | None, typer.Option("--sweep", help="judge the winners of this sweep instead")] = None,
    solution: Annotated[Path | None, typer.Option(help="judge this Solution file instead")] = None,
    definition: options.Definition = None,
    dataset: options.Dataset = None,
    db: options.Db = None,
    seed: Annotated[int, typer.Option(help="seed of the sample")] = 0,
    json: options.Json = False,
) -> None:
    """Judge variants on a machine without their GPU: their kernels are emulated, with numbers but without times."""
    results()
    from tuner.cli.steps import StepView
    from tuner.commands.verify import summary_of
    from tuner.commands.verify import verify as judge
    from tuner.settings import load

    settings = load({"space": space, "target": target, "definition": definition, "dataset": dataset, "seed": seed})
    url = options.database_url(db) if sweep_id is not None else None
    with StepView() as view:
        result = judge(settings, sample, sweep_id, solution, url, view)
    if json:
        print_json(result.document())
    else:
        for variant in result.variants:
            stdout().print(summary_of(variant), markup=False, soft_wrap=True)
        count = f"{result.passed} of {len(result.variants)}"
        stdout().print(f"{count} passed (emulated on {result.definition}) in {result.wall_s:.1f} s")
    raise typer.Exit(result.exit_code)
