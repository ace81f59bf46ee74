"""Commands around the HTTP service: serve, and token create, list and revoke."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tuner.cli import options
from tuner.cli.output import print_json, stdout

token = typer.Typer(help="Who may use the HTTP service.")

DAY_S = 86400


def serve(
    host: Annotated[str, typer.Option(help="address to listen on; other than loopback needs a token")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to listen on")] = 8080,
    workers: Annotated[int, typer.Option(min=1, max=64, help="server processes")] = 1,
    dataset: options.Dataset = None,
    ray_address: Annotated[str | None, typer.Option(help="Ray cluster that sweeps use; default: RAY_ADDRESS")] = None,
    ray_jobs_url: Annotated[
        str | None, typer.Option(help="Ray Jobs API, such as http://head:8265; sweeps then run as jobs there")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder that sweeps write their Solutions into")] = None,
    rate_per_s: Annotated[float, typer.Option(min=0, help="requests per second of one client, 0 for no limit")] = 100,
    max_running_sweeps: Annotated[int, typer.Option(min=0, help="sweeps at once; the next one is refused")] = 2,
    db: options.Db = None,
) -> None:
    """Serve the HTTP API and the pages until interrupted."""
    import platformdirs

    from tuner.service.run import run
    from tuner.service.settings import ServiceSettings
    from tuner.settings import load

    common = load({"db": db, "dataset": dataset, "ray_address": ray_address})
    home = Path(platformdirs.user_data_dir("tuner"))
    run(
        ServiceSettings(
            db=common.db,
            host=host,
            port=port,
            workers=workers,
            dataset=common.dataset,
            cache_dir=common.cache_dir,
            ray_address=common.ray_address,
            ray_jobs_url=ray_jobs_url,
            log_dir=home / "logs",
            out=out or home / "solutions",
            rate_per_s=rate_per_s,
            max_running_sweeps=max_running_sweeps,
        )
    )


@token.command("create")
def create(
    scope: Annotated[str, typer.Option(help="read, or run: also start and stop sweeps")],
    name: Annotated[str, typer.Option(help="whose it is, for people")] = "",
    expires_days: Annotated[float | None, typer.Option(help="days until it ends by itself; default: never")] = None,
    db: options.Db = None,
    json: options.Json = False,
) -> None:
    """Make a token and print it. This is the only time that it can be seen."""
    from db.store import Store
    from tuner.service import tokens

    with Store.open(options.database_url(db)) as store:
        text, record = tokens.create(
            store, scope, name=name, expires_in_s=None if expires_days is None else expires_days * DAY_S
        )
    if json:
        print_json({"token": text, "key": record.key, "scopes": list(record.scopes), "expires_at": record.expires_at})
    else:
        stdout().print(text)


@token.command("list")
def list_(db: options.Db = None, json: options.Json = False) -> None:
    """Show all tokens, without their secrets."""
    import time

    from tuner.database import open_existing
    from tuner.results.status import moment
    from tuner.service.tokens import state

    with open_existing(db) as store:
        known = store.tokens.all()
    rows: list[dict[str, Any]] = [
        {
            "key": t.key,
            "name": t.name,
            "scopes": list(t.scopes),
            "state": state(t, time.time()),
            "created_at": moment(t.created_at),
            "expires_at": moment(t.expires_at),
        }
        for t in known
    ]
    if json:
        print_json({"tokens": rows})
        return
    if not rows:
        stdout().print("no token yet; `tuner token create --scope read` makes one")
        return
    from rich.table import Table

    table = Table("key", "name", "scopes", "state", "created", "expires")
    for row in rows:
        scopes = " ".join(row["scopes"])
        table.add_row(row["key"], row["name"], scopes, row["state"], row["created_at"], row["expires_at"] or "never")
    stdout().print(table)


@token.command("revoke")
def revoke(
    key: Annotated[str, typer.Argument(help="from `tuner token list`; the middle part of the token")],
    db: options.Db = None,
    json: options.Json = False,
) -> None:
    """Revoke a token. Servers refuse it at once."""
    from tuner.database import open_existing
    from tuner.errors import NothingFoundError

    with open_existing(db) as store:
        found = store.tokens.revoke(key)
    if not found:
        raise NothingFoundError(f"there is no token {key!r}; `tuner token list` shows them")
    if json:
        print_json({"revoked": key})
    else:
        stdout().print(f"token {key} is revoked")
