"""Commands that hand results out: export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tuner.cli import options
from tuner.cli.output import print_json, results, stdout


def export(
    out: Annotated[Path, typer.Option(help="flashinfer-trace folder to write into; made if missing")],
    which: Annotated[
        int | None, typer.Argument(metavar="SWEEP", help="ID of a sweep; default: the newest finished one that fits")
    ] = None,
    sweep: Annotated[int | None, typer.Option("--sweep", help="the same, as an option")] = None,
    definition: options.Definition = None,
    hardware: options.Hardware = None,
    name: Annotated[str | None, typer.Option(help="the Solution's name; default: from space and hardware")] = None,
    author: Annotated[str, typer.Option(help="the Solution's author")] = "tuner",
    dataset: options.SweepDataset = None,
    space: options.SweepSpace = None,
    ray_address: Annotated[str | None, typer.Option(help="Ray cluster; default: RAY_ADDRESS, else a local one")] = None,
    db: options.Db = None,
    json: options.Json = False,
) -> None:
    """Write the winners of a sweep as one Solution, verified on every workload; refuses one that does not pass."""
    results()
    from tuner.cli.progress_line import StepView
    from tuner.errors import UsageError
    from tuner.results.export import export_solution

    if None not in (which, sweep) and which != sweep:
        raise UsageError(f"sweep {which} and --sweep {sweep} are two; name one")
    with StepView() as view:
        result = export_solution(
            sweep if which is None else which, out=out, definition=definition, hardware=hardware, name=name,
            author=author, dataset=dataset, space=space, ray_address=ray_address, db=db, view=view,
        )  # fmt: skip
    if json:
        print_json(result.document())
    else:
        stdout().print(f"Solution {result.name} written to {result.path}, {result.verdict}")
