"""Options that several commands share, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="print one JSON document instead of text")]
Db = Annotated[
    str | None, typer.Option("--db", help="database URL; default: TUNER_DB_URL, else SQLite in your data folder")
]
Dataset = Annotated[
    Path | None, typer.Option("--dataset", help="flashinfer-trace folder; default: TUNER_DATASET, else packaged")
]
Definition = Annotated[str | None, typer.Option("--definition", help="name of the definition")]
Space = Annotated[str | None, typer.Option("--space", help="name of a search space, or a folder with a space.yaml")]
Target = Annotated[str | None, typer.Option("--target", help="cpu, sm_90a or sm_100a; default: this machine's")]
Hardware = Annotated[
    str | None, typer.Option("--hardware", help="GPU or CPU name as recorded, or 'auto' for this machine's")
]


def database_url(given: str | None) -> str:
    """The database that a command without sweep settings uses."""
    from tuner.settings import load

    return load({"db": given}).db


def parse_axes(given: list[str]) -> dict[str, int]:
    """``name=number`` pairs.

    Raises:
        UsageError: One is not of that form.
    """
    from tuner.errors import UsageError

    axes = {}
    for pair in given:
        name, _, value = pair.partition("=")
        if not name or not value.isdigit():
            raise UsageError(f"--axes {pair!r} must be NAME=NUMBER, such as seq_len=57")
        axes[name] = int(value)
    return axes
