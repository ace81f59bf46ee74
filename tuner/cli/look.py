"""Commands that only read: status, best, report, explain. They need no GPU and start nothing."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuner.cli import options
from tuner.cli.output import print_json, stdout
from tuner.errors import NothingFoundError
from tuner.format import config_text, microseconds, ratio, workload_text

if TYPE_CHECKING:
    from tuner.prediction.explain import Explained, Explanation


def status(
    sweep: Annotated[int | None, typer.Argument(help="ID of a sweep; default: the newest ones")] = None,
    limit: Annotated[int, typer.Option(min=1, help="how many sweeps to list")] = 20,
    definition: options.Definition = None,
    db: options.Db = None,
    json: options.Json = False,
) -> None:
    """Show sweeps, or one sweep with its trials by state and its winners."""
    from tuner.database import open_existing
    from tuner.results.status import describe, overview

    with open_existing(db) as store:
        document = overview(store, limit, definition) if sweep is None else describe(store, sweep)
    if json:
        print_json(document)
    elif sweep is None:
        _print_overview(document)
    else:
        from tuner.commands.going_on import shown

        _print_sweep(document, [] if db is None else ["--db", shown(db)])


def _print_overview(document: dict) -> None:
    from rich.table import Column, Table

    if not document["sweeps"]:
        stdout().print("no sweep yet; `tuner sweep` runs one")
        return
    # Names are wanted whole: other commands ask for them.
    names = [Column(name, overflow="fold") for name in ("definition", "space", "hardware")]
    table = Table("id", "state", *names, "trials", Column("started", no_wrap=True))
    for s in document["sweeps"]:
        started = _moment(s["started_at"])
        table.add_row(
            str(s["id"]), s["state"], s["definition"], s["space"], s["hardware"] or "-", str(s["trials"]), started
        )
    stdout().print(table)


def _moment(text: str | None) -> str:
    """A moment of a document, short and in local time."""
    from datetime import datetime

    return datetime.fromisoformat(text).astimezone().strftime("%m-%d %H:%M") if text else ""


def _print_sweep(document: dict, place: list[str]) -> None:
    """A sweep in words; ``place`` is how another command finds the same database."""
    console = stdout()
    for key in ("id", "state", "definition", "space", "target", "hardware", "started_at", "finished_at"):
        console.print(f"{key}: {document[key] or '-'}")
    if document["state"] == "FAILED" and "error" in document["summary"]:  # one that is resumed keeps it till it ends
        console.print(f"error: {document['summary']['error']}", soft_wrap=True)
    console.print("trials: " + (", ".join(f"{n} {k}" for k, n in document["trials_by_state"].items()) or "none yet"))
    for w in document["winners"]:
        console.print(
            f"{w['regime']}: {microseconds(w['median_us'])} ({ratio(w['default_median_us'], w['median_us'])} over the "
            f"default): {config_text(w['config'])}"
        )
    for line in failure_lines(document["failures"]):
        console.print(line, soft_wrap=True)
    if document["resumable"]:
        command = shlex.join(["tuner", "sweep", "--resume", str(document["id"]), *place])
        console.print(f"go on with: {command}", soft_wrap=True)


def failure_lines(failures: list[dict]) -> list[str]:
    """A line for each reason, with the trials that failed for it."""
    from tuner.sweeps.failures import kind_of

    alike: dict[tuple[str, str], list[dict]] = {}
    for failure in failures:
        alike.setdefault((failure["state"], kind_of(failure["reason"])), []).append(failure)
    return [
        f"trial{'' if len(same) == 1 else 's'} {', '.join(str(f['number']) for f in same)} {state}: {same[0]['reason']}"
        for (state, _), same in alike.items()
    ]


def best(
    definition: Annotated[str, typer.Option("--definition", help="name of the definition")],
    axes: Annotated[
        list[str] | None, typer.Option("--axes", help="NAME=NUMBER, such as seq_len=57; repeatable")
    ] = None,
    hardware: options.Hardware = None,
    target: Annotated[
        str | None, typer.Option(help="what it was built for: cpu, sm_90a or sm_100a; default: any")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="what the inputs look like, such as hot:3; default: the mix that was tuned for")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="ask this service instead of a database; token from TUNER_TOKEN")
    ] = None,
    db: options.Db = None,
    json: options.Json = False,
) -> None:
    """Show the best known config for a problem size, how it was found, on which hardware, and its interval."""
    from tuner import Client, best_config
    from tuner.client.answer_cache import BestAnswer
    from tuner.results.best_config import BestConfig, nothing_found

    sizes = options.parse_axes(axes or [])
    found: BestConfig | None
    if url is None:
        found = best_config(definition, sizes, hardware=hardware, target=target, profile=profile, db=db)
    else:
        found = Client(url).best_config(definition, sizes, hardware=hardware, target=target, profile=profile)
    if found is None:
        raise NothingFoundError(
            f"{nothing_found(definition, axes or [], hardware, target)}; `tuner status` lists what was swept"
        )
    if json:
        print_json(found.document())
        return
    console = stdout()
    console.print(f"{microseconds(found.median_us)} [{microseconds(found.low_us)}, {microseconds(found.high_us)}]")
    console.print(f"config: {config_text(found.config)}")
    console.print(f"found: {found.found} ({found.detail})")
    console.print(f"decided by: {found.size_axis or 'nothing, one config serves all sizes'}")
    console.print(f"for: {found.profile or 'a mix of'} inputs")
    console.print(f"on: {found.hardware}, sweep {found.sweep_id}, {found.age_s / 3600:.1f} h ago")
    if found.solution:
        console.print(f"Solution: {found.solution}")
    if isinstance(found, BestAnswer) and found.stale:
        console.print("the service cannot be reached; this is its last answer")


@options.with_settings("definition", "dataset", "space", "target", "profiles", "sizes", "workloads")
def profile(
    given: dict[str, Any],
    out: Annotated[Path | None, typer.Option(help="HTML file with a picture")] = None,
    json: options.Json = False,
) -> None:
    """Show what the workloads of a dataset look like: their sizes, and what their inputs do."""
    from tuner.cli.progress_line import StepView
    from tuner.commands.profile import profile_dataset
    from tuner.results.report.input_page import write_picture
    from tuner.settings import load

    with StepView() as view:
        found = profile_dataset(load(given), view)
    if out is not None:
        write_picture(found.document(), out)
    if json:
        print_json(found.document())
        return
    from rich.table import Column, Table

    from tuner.results.report.input_page import input_table

    rows = input_table(found.document()["workloads"])
    first = (Column(name, no_wrap=True) for name in ("profile", "sizes"))
    table = Table(*first, *(rows["names"] if rows else ()))
    for w in found.workloads if rows is None else ():
        table.add_row(w.profile, workload_text(w.axes))
    for profile_, sizes_, cells in rows["rows"] if rows else ():
        table.add_row(profile_, sizes_, *cells)
    stdout().print(table)
    for why in found.left_out:
        stdout().print(f"left out: {why}")
    if rows is None:
        stdout().print("what the inputs do is not known: no search space here says it for this op")


def report(
    sweep: Annotated[int | None, typer.Argument(help="ID of a sweep; default: the newest with trials")] = None,
    out: Annotated[Path | None, typer.Option(help="HTML file; default: tuner-report-ID.html")] = None,
    bench: Annotated[
        Path | None, typer.Option(help="output of `tuner bench --json`: other Solutions beside the tuned one")
    ] = None,
    db: options.Db = None,
    json: options.Json = False,
) -> None:
    """Write one self-contained HTML page about a sweep."""
    from tuner.database import open_existing
    from tuner.results.report import write_report

    with open_existing(db) as store:
        path = write_report(store, sweep, out, bench)
    if json:
        print_json({"path": str(path)})
    else:
        stdout().print(f"report written to {path}")


@options.with_settings("definition", "workloads", "space", "target", "dataset", "db")
def explain(
    given: dict[str, Any],
    config: Annotated[
        str,
        typer.Argument(help="'default', JSON (or a file) of what differs from it, or digits of a tried config's hash"),
    ] = "default",
    hardware: options.Hardware = None,
    json: options.Json = False,
) -> None:
    """Show what a config should take by the space's model, what bounds it, and what was measured. Needs no GPU."""
    from tuner.database import open_existing
    from tuner.prediction.explain import explain as explained
    from tuner.settings import load

    settings = load(given)
    with open_existing(given["db"]) as store:
        found = explained(store, settings, config, hardware)
    if json:
        print_json(found.document())
    else:
        _print_explanation(found)


def _print_explanation(found: Explanation) -> None:
    from rich.table import Table

    console = stdout()
    word = "model" if found.hardware.measured else "forecast: no kernel was ever timed there"
    console.print(f"{found.definition} on {found.hardware.name} ({word})")
    console.print(f"config: {config_text(found.config)}")
    table = Table("workload", "predicted", "measured", "measured / predicted", "bound by", "that alone")
    for w in found.workloads:
        took = w.measured.median_us if w.measured else None
        table.add_row(
            workload_text(w.axes, w.profile),
            microseconds(w.prediction.us),
            microseconds(took),
            "-" if took is None else f"{took / w.prediction.us:.2f}",
            w.prediction.bound,
            microseconds(w.prediction.bound_us),
        )
    console.print(table)
    if found.workloads:
        _print_kernels(found.workloads[-1])


def _print_kernels(w: Explained) -> None:
    """The kernels of the last workload, with what they wait for."""
    from rich.table import Table

    table = Table(
        "kernel", "us", "resources, were each alone (us)", "lost in (us)", title=workload_text(w.axes, w.profile)
    )
    for kernel in w.prediction.kernels:
        ranked = sorted(kernel.resources_us.items(), key=lambda item: -item[1])
        lost = sorted(kernel.losses_us.items(), key=lambda item: -item[1])
        table.add_row(
            kernel.name,
            f"{kernel.us:.1f}",
            ", ".join(f"{name} {us:.1f}" for name, us in ranked),
            ", ".join(f"{name} {us:.1f}" for name, us in lost if us >= 0.05) or "-",
        )
    stdout().print(table)
