"""Options that several commands share, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from workers.devices.targets import NAMES

Json = Annotated[bool, typer.Option("--json", help="print one JSON document instead of text")]
Db = Annotated[
    str | None, typer.Option("--db", help="database URL; default: TUNER_DB_URL, else SQLite in your data folder")
]
Dataset = Annotated[
    Path | None, typer.Option("--dataset", help="flashinfer-trace folder; default: TUNER_DATASET, else packaged")
]
Definition = Annotated[str | None, typer.Option("--definition", help="name of the definition")]
Space = Annotated[str | None, typer.Option("--space", help="name of a search space, or a folder with a space.yaml")]
Target = Annotated[str | None, typer.Option("--target", help=f"{', '.join(NAMES)}; default: this machine's")]
Hardware = Annotated[
    str | None, typer.Option("--hardware", help="GPU or CPU name as recorded, or 'auto' for this machine's")
]

Rtol = Annotated[
    list[str] | None, typer.Option("--rtol", help="relative tolerance, or OUTPUT=NUMBER for one output; repeatable")
]
Atol = Annotated[
    list[str] | None,
    typer.Option("--atol", help="absolute tolerance, or OUTPUT=NUMBER; default: by the outputs' scale; repeatable"),
]
MatchedRatio = Annotated[
    list[str] | None,
    typer.Option("--required-matched-ratio", help="share of elements that must match, or OUTPUT=NUMBER; repeatable"),
]
JudgeBy = Annotated[
    list[str] | None,
    typer.Option("--judge", help="OUTPUT=close, exact, steps, selected or drawn: how it is judged; repeatable"),
]


def by_output(flag: str, given: list[str] | None) -> dict[str, str] | None:
    """``NUMBER`` and ``OUTPUT=NUMBER`` as a setting by output, all outputs under the empty name.

    Raises:
        UsageError: One is given twice, or has no value.
    """
    from tuner.errors import UsageError

    if given is None:
        return None
    found: dict[str, str] = {}
    for text in given:
        name, _, value = text.rpartition("=")
        if not value or name in found:
            why = "is given twice" if value else "has no value"
            raise UsageError(f"{flag} {text!r} {why}; it must be NUMBER or OUTPUT=NUMBER, such as lse=1e-3")
        found[name] = value
    return found


def tolerances(
    rtol: list[str] | None, atol: list[str] | None, ratio: list[str] | None, judge: list[str] | None
) -> dict[str, dict[str, str] | None]:
    """The settings of these four flags."""
    return {
        "rtol": by_output("--rtol", rtol),
        "atol": by_output("--atol", atol),
        "required_matched_ratio": by_output("--required-matched-ratio", ratio),
        "judge": by_output("--judge", judge),
    }


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
