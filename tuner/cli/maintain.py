"""Commands that look after the installation: doctor and db."""

from __future__ import annotations

from typing import Annotated

import typer

from tuner.cli import options
from tuner.cli.output import print_json, stdout
from tuner.errors import EXIT_ENVIRONMENT, EXIT_OK

db = typer.Typer(help="Look after the database.")

DAY_S = 86400


@db.command("upgrade")
def upgrade(db: options.Db = None, json: options.Json = False) -> None:
    """Bring the database to this version's schema. Safe to run in several processes at once."""
    from db.store import Store

    with Store.open(options.database_url(db), upgrade=True) as store:
        version = store.schema_version()
    if json:
        print_json({"schema": version})
    else:
        stdout().print(f"database is at schema {version}")


@db.command("prune")
def prune(
    older_than_days: Annotated[float, typer.Option(min=0, help="age in days from which samples and logs are dropped")],
    db: options.Db = None,
    json: options.Json = False,
) -> None:
    """Drop old samples and build logs. Medians, intervals, statuses and the finalists' samples stay."""
    from db.store import Store

    with Store.open(options.database_url(db), create=False) as store:
        pruned = store.prune(older_than_days * DAY_S)
    if json:
        print_json({"pruned": pruned})
    else:
        stdout().print(f"{pruned} measurements and builds lost their samples or logs")


def doctor(
    db: options.Db = None,
    dataset: options.Dataset = None,
    ray_address: str | None = typer.Option(None, help="Ray cluster to check"),
    json: options.Json = False,
) -> None:
    """Check everything that a sweep needs, and say how to get what is missing."""
    from tuner.commands.doctor import examine

    checks = examine({"db": db, "dataset": dataset, "ray_address": ray_address})
    if json:
        print_json({"checks": [c.document() for c in checks]})
    else:
        for check in checks:
            mark = "ok  " if check.ok else "FAIL" if check.needed else "none"
            stdout().print(f"{mark}  {check.name}: {check.message}")
    raise typer.Exit(EXIT_ENVIRONMENT if any(c.needed and not c.ok for c in checks) else EXIT_OK)
