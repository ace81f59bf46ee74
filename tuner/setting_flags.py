"""How a setting is given on the command line and over HTTP. That follows from its field; what is unusual is a marker
in the field's annotation."""

from __future__ import annotations

import textwrap
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic.fields import FieldInfo

Marker = TypeVar("Marker")


@dataclass(frozen=True)
class Flag:
    """Marks a setting whose flag is not ``--its-name VALUE``.

    Args:
        name: The flag, if it is called otherwise.
        repeated: Whether it is given once for each value.
    """

    name: str = ""
    repeated: bool = False


@dataclass(frozen=True)
class Served:
    """Marks a setting that clients of the service may give.

    Args:
        kind: Its type for them, with their bounds; None for the same as everywhere.
        description: The same as the setting's if empty.
        required: Whether they have to give it.
    """

    kind: Any = None
    description: str = ""
    required: bool = False


def marker(field: FieldInfo, kind: type[Marker]) -> Marker | None:
    """The marker of this kind in a field's annotation, None if there is none."""
    return next((m for m in field.metadata if isinstance(m, kind)), None)


def flag(name: str, field: FieldInfo) -> str:
    """The flag of a setting, such as ``--max-trials``, or ``--no-reuse`` for a switch that is on by default."""
    special = marker(field, Flag)
    word = (special.name if special else "") or "--" + name.replace("_", "-")
    return "--no-" + word.removeprefix("--") if field.default is True else word


def is_repeated(field: FieldInfo) -> bool:
    """Whether the flag is given once for each value."""
    special = marker(field, Flag)
    return special is not None and special.repeated


def is_switch(field: FieldInfo) -> bool:
    """Whether the flag has no value."""
    return field.annotation is bool


def kind(field: FieldInfo) -> type:
    """The type of the flag's value: text wherever the setting itself reads it."""
    given = field.annotation
    if get_origin(given) in (Union, types.UnionType):
        others = [a for a in get_args(given) if a is not type(None)]
        given = others[0] if len(others) == 1 else str
    return given if isinstance(given, type) and given in (int, float, Path) else str


def arguments(fields: Mapping[str, FieldInfo], given: Mapping[str, Any]) -> list[str]:
    """The words of a command line that gives these values.

    Args:
        fields: All settings.
        given: Some of them; None counts as not given.
    """
    words: list[str] = []
    for name, value in given.items():
        field = fields[name]
        if is_switch(field):
            words += [flag(name, field)] * (value is not None and value is not field.default)
        elif is_repeated(field):
            texts = [f"{k}={v}" for k, v in value.items()] if isinstance(value, Mapping) else value or ()
            words += [word for text in texts for word in (flag(name, field), str(text))]
        elif value is not None:
            words += [flag(name, field), ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)]
    return words


def table(fields: Mapping[str, FieldInfo]) -> str:
    """All settings as a Markdown list: key, flag, default, whether clients of the service may give them."""
    lines: list[str] = []
    for name, field in fields.items():
        value = "" if field.default_factory or field.default is None or field.default in ((), {}) else field.default
        shown = ",".join(map(str, value)) if isinstance(value, tuple | dict) else str(value)
        facts = [f"`{flag(name, field)}`", *([f"default {shown}"] if value != "" and not is_switch(field) else [])]
        facts += ["also over HTTP"] if marker(field, Served) else []
        text = f"* **{name}** ({', '.join(facts)}): {field.description}"
        lines += textwrap.wrap(text, 118, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)
    return "\n".join(lines)
