"""Commands that make spaces, build and measure: init, sweep, bench, compile."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search_spaces.targets import is_cuda
from tuner.cli import options
from tuner.cli.options import with_settings
from tuner.cli.output import print_json, results, stderr, stdout
from tuner.files import OUT_DEFAULT
from tuner.format import changes_text, config_text, microseconds, ratio

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from tuner.commands.bench_result import BenchResult
    from tuner.settings import SweepSettings
    from tuner.sweeps.per_accelerator import KindResult


@with_settings()
def sweep(
    given: dict[str, Any],
    resume: Annotated[int | None, typer.Option(help="ID of a sweep to go on with")] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="with --resume: try again what hung, crashed or lost its worker")
    ] = False,
    config: Annotated[Path | None, typer.Option(help="YAML file with these settings and more")] = None,
    out: Annotated[
        Path, typer.Option(help="flashinfer-trace folder that the best Solution is written into")
    ] = OUT_DEFAULT,
    no_export: Annotated[bool, typer.Option("--no-export", help="do not write a Solution at the end")] = False,
    ticket: Annotated[
        str | None, typer.Option(hidden=True, help="how a server recognises the sweep it started")
    ] = None,
    json: options.Json = False,
) -> None:
    """Search for the fastest correct config of each regime and write the best ones as one Solution."""
    results()
    from tuner.interrupts import nothing_begun
    from tuner.settings import load

    settings = load(given, config)
    if len(settings.accelerators) > 1:
        words = ["--no-export"] if no_export else ["--out", str(out)]
        raise typer.Exit(_sweep_on_each(settings, resume is not None or retry_failed, words, json))
    with nothing_begun(resume):
        from tuner.cli.sweep_progress import SweepView
        from tuner.commands.sweep import run_sweep

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


def _sweep_on_each(settings: SweepSettings, goes_on: bool, words: list[str], json: bool) -> int:
    """Sweep on several kinds of machine and print the output of each, in the order in which they were given."""
    from tuner.errors import UsageError
    from tuner.sweeps.per_accelerator import exit_code, run_on_each

    if goes_on:
        raise UsageError(
            "--resume and --retry-failed go on with the sweep of one kind of machine; leave --accelerators out"
        )
    found = run_on_each(settings, [*words, *(["--json"] if json else [])], lambda line: stderr().print(line))
    if json:
        print_json({"sweeps": [_document(result) for result in found]})
    else:
        for result in found:
            stdout().print(f"== {result.accelerator}")
            stdout().print(result.output, end="", highlight=False)
    return exit_code(found)


def _document(result: KindResult) -> dict[str, Any]:
    from json import loads

    document = loads(result.output) if result.output.strip() else {}
    return {"accelerator": result.accelerator, "exit_code": result.exit_code, **document}


def _print_sweep(report: Any) -> None:
    from rich.table import Table

    console = stdout()
    console.print(
        f"sweep {report.sweep_id}: {report.trials} trials of {report.space} for {report.definition} "
        f"on {report.hardware}"
    )
    if not report.winners:
        for reason in report.reasons:
            console.print(reason)
        for why in report.left_out:
            console.print(f"left out: {why}")
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
    for line in report.beside_baseline.verdicts() if report.beside_baseline is not None else ():
        console.print(line)
    console.print("best config of each regime, where it differs from the default:")
    for w in report.winners:
        today = report.default_by_regime.get(w.regime, report.default_config)
        console.print(f"  {w.regime}: {changes_text(w.config, today)}")
    for c in report.crossings:
        moved = f"stays at {c.was}" if c.bound == c.was else f"moves from {c.was} to {c.bound}"
        console.print(f"the bound between {c.lower} and {c.upper} {moved}: {c.reason}")
    for regime, refused in report.refused.items():
        for config_hash, why in refused.items():
            console.print(f"  {regime}: the guard refused {config_hash}: {why}")
    if report.export is not None:
        console.print(f"Solution {report.export.name} written to {report.export.path}, {report.export.verdict}")
    if report.export_failure is not None:
        console.print(f"the winners are kept, but no Solution was written; go on with: {report.export_command}")
    for why in report.left_out:
        console.print(f"left out: {why}")
    console.print(f"ask for it: tuner best --definition {report.definition} {report.example_axes}")


@with_settings(
    "definition",
    "dataset",
    "space",
    "target",
    "workloads",
    "axes",
    "mode",
    "rtol",
    "atol",
    "required_matched_ratio",
    "judge",
    "compile_s",
    "check_s",
    "measure_s",
    "ray_address",
    "db",
    seed="seed of the order within the rounds; default: 0",
)
def bench(
    given: dict[str, Any],
    solutions: Annotated[
        list[str],
        typer.Argument(help="names in the dataset, JSON files, 'reference', or 'default'/'best' of a sweep"),
    ],
    rounds: Annotated[int, typer.Option(min=6, help="interleaved rounds")] = 36,
    json: options.Json = False,
) -> None:
    """Measure Solutions side by side, interleaved, so that differences are paired."""
    results()
    from tuner.cli.progress_line import StepView
    from tuner.commands.bench import run_bench
    from tuner.settings import load

    settings = load(given)
    with StepView() as view:
        result = run_bench(settings, solutions, rounds, view)
    if json:
        print_json(result.document())
    else:
        stdout().print(_bench_table(result, stdout()))
        for line in result.verdicts():
            stdout().print(line)
        if result.interrupted:
            stderr().print("interrupted: the table holds what was measured until then")
    raise typer.Exit(result.exit_code)


def _bench_table(result: BenchResult, console: Console) -> Table:
    """A column for each Solution; where those do not fit into the console's width, a row for each."""
    from rich.table import Table

    table = Table("workload", *result.names)
    for axes, row in result.rows():
        table.add_row(axes, *row)
    if console.measure(table, options=console.options.update(width=10_000)).maximum <= console.width:
        return table
    table = Table("workload", "Solution", "time")
    for axes, row in result.rows():
        for name, cell in zip(result.names, row, strict=True):
            table.add_row(axes, name, cell)
        table.add_section()
    return table


@with_settings("space", "target", "definition", "dataset", seed="seed of the sample of configs; default: 0")
def compile_(
    given: dict[str, Any],
    sample: Annotated[
        int, typer.Option(min=1, help="number of configs, spread over the space; the default is the first")
    ] = 10,
    jobs: Annotated[int | None, typer.Option(min=1, help="builds at once; default: the cores")] = None,
    json: options.Json = False,
) -> None:
    """Build a sample of a space's configs without running them, and show what they need."""
    results()
    from tuner.cli.progress_line import StepView
    from tuner.commands.compile import compile_sample
    from tuner.settings import load

    settings = load(given)
    with StepView() as view:
        result = compile_sample(settings, sample, jobs, view)
    if json:
        print_json(result.document())
    else:
        from rich.table import Column, Table

        figures = ("build s", "registers", "spill bytes", "smem bytes")
        table = Table(Column("status", no_wrap=True), *figures, Column("config", overflow="fold"))
        default = result.variants[0]["config"]
        for v in result.variants:
            cells = (v["registers"], v["spill_bytes"], v["smem_bytes"])
            table.add_row(
                v["status"],
                f"{v['build_s']:.2f}",
                *("-" if c is None else str(c) for c in cells),
                changes_text(v["config"], default),
            )
        stdout().print(f"the default: {config_text(default)}", soft_wrap=True)
        stdout().print(table)
        stdout().print(f"{result.built} of {len(result.variants)} built in {result.wall_s:.1f} s")
        reasons = Counter((v["status"], v["reason"]) for v in result.variants if v["reason"])
        for (status, why), count in reasons.most_common():
            stdout().print(f"{count} {status}: {why}", soft_wrap=True)
        for why, count in Counter(v["figures"].get("remark") for v in result.variants).items():
            if why is not None:
                stdout().print(f"{count} BUILT, but {why}", soft_wrap=True)
    raise typer.Exit(result.exit_code)


@with_settings(
    "space",
    "definition",
    "dataset",
    target="target that is emulated, sm_90a or sm_100a; default: the machine's, if it is one of them",
    seed="seed of the sample of configs; default: 0",
)
def verify(
    given: dict[str, Any],
    sample: Annotated[int, typer.Option(min=1, help="number of configs, spread over the space")] = 1,
    sweep_id: Annotated[int | None, typer.Option("--sweep", help="judge the winners of this sweep instead")] = None,
    solution: Annotated[Path | None, typer.Option(help="judge this Solution file instead")] = None,
    db: options.Db = None,
    json: options.Json = False,
) -> None:
    """Judge variants on a machine without their GPU: their kernels are emulated, with numbers but without times."""
    results()
    from tuner.cli.progress_line import StepView
    from tuner.commands.verify import summary_of
    from tuner.commands.verify import verify as judge
    from tuner.settings import load

    settings = load(given)
    url = options.database_url(db) if sweep_id is not None else None
    with StepView() as view:
        result = judge(settings, sample, sweep_id, solution, url, view)
    if json:
        print_json(result.document())
    else:
        for variant in result.variants:
            stdout().print(summary_of(variant), soft_wrap=True)
        count = f"{result.passed} of {len(result.variants)}"
        stdout().print(f"{count} passed (emulated on {result.definition}) in {result.wall_s:.1f} s")
    raise typer.Exit(result.exit_code)


@with_settings(
    "dataset",
    definition="name of the definition; default: the one that a Solution's JSON or config.toml names, else none",
    target="GPU target to compile for, sm_90a or sm_100a; default: sm_90a",
)
def init(
    given: dict[str, Any],
    path: Annotated[
        Path, typer.Argument(help="a Triton file, a Solution's JSON, or a contest folder with config.toml")
    ],
    out: Annotated[Path | None, typer.Option(help="folder of the new space; default: named after the kernel")] = None,
    entry: Annotated[str | None, typer.Option(help="function that launches the kernels; default: found")] = None,
    widen: Annotated[
        bool, typer.Option("--widen", help="all combinations of the configs' values, not the author's list alone")
    ] = False,
    sample: Annotated[int, typer.Option(min=0, help="configs that are compiled to try it; 0 for none")] = 3,
    json: options.Json = False,
) -> None:
    """Make a space of a Triton kernel: its autotune configs become parameters. The code is read, not run."""
    results()
    from tuner.cli.progress_line import StepView
    from tuner.init.command import init_space
    from tuner.settings import load

    settings = load(given)
    with StepView() as view:
        result = init_space(settings, path, out, entry, widen, sample, view)
    if json:
        print_json(result.document())
    else:
        for line in result.lines():
            stdout().print(line, highlight=False, soft_wrap=True)
    raise typer.Exit(result.exit_code)
