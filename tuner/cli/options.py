"""Options that several commands share; those of settings are made from the fields of the settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from tuner import setting_flags
from tuner.settings import SweepSettings, load

FIELDS = SweepSettings.model_fields
MOST_DIGITS = 18
"""Of a size, so that it fits into 64 bits."""


def option(name: str, help_: str = "") -> Any:
    """Typer's option for a setting, with its description unless another one is given."""
    field = FIELDS[name]
    if help_:
        return typer.Option(setting_flags.flag(name, field), help=help_)
    help_ = field.description or ""
    if setting_flags.is_switch(field):
        help_ = f"do not {help_}" if field.default is True else help_
    elif isinstance(field.default, int | float | str) and "; default" not in help_:
        help_ += f"; default: {field.default}"
    if setting_flags.is_repeated(field):
        help_ += "; repeatable"
    return typer.Option(setting_flags.flag(name, field), help=help_)


Json = Annotated[bool, typer.Option("--json", help="print one JSON document instead of text")]
Db = Annotated[str | None, option("db")]
Dataset = Annotated[Path | None, option("dataset")]
SweepDataset = Annotated[
    Path | None, option("dataset", "flashinfer-trace folder; default: TUNER_DATASET, else the sweep's")
]
SweepSpace = Annotated[
    str | None, option("space", "name of the space, or its folder where it is now; default: the sweep's")
]
Definition = Annotated[str | None, option("definition", "only sweeps of this definition; default: of any")]
Hardware = Annotated[
    str | None, typer.Option("--hardware", help="GPU or CPU name as recorded, or 'auto' for this machine's")
]


def database_url(given: str | None) -> str:
    """The database that a command without sweep settings uses."""
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
        if name in axes:
            raise UsageError(f"--axes gives {name} twice")
        if len(value) > MOST_DIGITS:
            raise UsageError(f"--axes {name} has {len(value)} digits; at most {MOST_DIGITS} are allowed")
        axes[name] = int(value)
    return axes


def with_settings(*names: str, **described: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the flags of these settings, of all for none. It gets them as one mapping, its first parameter.

    Args:
        names: The settings.
        described: More of them, each with the help that it has at this command.
    """
    chosen = (*names, *described) or tuple(FIELDS)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def run(**values: Any) -> None:
            command({name: _value(name, values.pop(name)) for name in chosen}, **values)

        own = [*inspect.signature(command, eval_str=True).parameters.values()][1:]
        parameters = [_parameter(name, described.get(name, "")) for name in chosen] + [
            p.replace(kind=p.KEYWORD_ONLY) for p in own
        ]
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return run

    return decorate


def _parameter(name: str, help_: str) -> inspect.Parameter:
    field = FIELDS[name]
    if setting_flags.is_switch(field):
        kind, default = bool, False
    else:
        one = setting_flags.kind(field)
        kind, default = ((list[one] if setting_flags.is_repeated(field) else one) | None), None  # type: ignore[valid-type, assignment]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option(name, help_)]
    )


def _value(name: str, given: Any) -> Any:
    """A flag's value as one of the setting; None if it was not given."""
    field = FIELDS[name]
    return given if not setting_flags.is_switch(field) else (not field.default if given else None)
