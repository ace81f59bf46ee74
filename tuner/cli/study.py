"""Commands that convert a sweep for other programs: study export and study record."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tuner.cli import options
from tuner.cli.output import print_json, stdout

study = typer.Typer(help="Hand a sweep's trials to other programs.")

Sweep = Annotated[int, typer.Argument(help="ID of a sweep; `tuner status` lists them")]


@study.command("export")
def export(
    sweep: Sweep,
    out: Annotated[Path, typer.Option(help="SQLite file to write; must not exist")],
    db: options.Db = None,
    json: options.Json = False,
) -> None:
    """Write a sweep as an Optuna storage with one study per regime, for optuna-dashboard."""
    from db.store import Store
    from tuner.results.optuna_export import export_study

    with Store.open(options.database_url(db), create=False) as store:
        written = export_study(store, sweep, out)
    if json:
        print_json({"path": str(out), "studies": written})
        return
    for name, trials in written.items():
        stdout().print(f"{name}: {trials} trials")
    stdout().print(f"look at it with: optuna-dashboard sqlite:///{out}")


@study.command("record")
def record(
    sweep: Sweep,
    out: Annotated[Path, typer.Option(help="file to write, such as sweep.replay.json.gz")],
    regime: Annotated[str | None, typer.Option(help="name of the regime; default: the only one")] = None,
    dataset: options.SweepDataset = None,
    db: options.Db = None,
    json: options.Json = False,
) -> None:
    """Write one regime of a sweep as a recording, on which samplers can be compared by replay."""
    from db.store import Store
    from tuner.results.recording import record_sweep, write_recording
    from tuner.settings import load

    given = load({"db": db, "dataset": dataset})
    with Store.open(given.db, create=False) as store:
        recording = record_sweep(store, sweep, regime, given)
    write_recording(out, recording)
    if json:
        print_json({"path": str(out), "name": recording["name"], "points": len(recording["configs"])})
    else:
        stdout().print(f"{len(recording['configs'])} configs of {recording['name']} written to {out}")
