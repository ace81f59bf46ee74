"""The text of a ``space.yaml``, with remarks where its author has to decide."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from tuner.init.author_configs import AuthorChoices
from tuner.init.source.source_file import TODO

NO_DEFINITION = "TODO"
"""Stands where the definition's name belongs."""


@dataclass(frozen=True)
class SpaceParts:
    """What a ``space.yaml`` says.

    Attributes:
        choices: Parameters, configs, default and starts.
        notes: Lines of comments above the parameters.
        todo: Remarks for the author, in the same place.
    """

    definition: str | None
    targets: tuple[str, ...]
    entry_point: str
    language: str
    choices: AuthorChoices
    dependencies: tuple[str, ...] = ()
    size_axis: str | None = None
    notes: Sequence[str] = ()
    destination_passing: bool = True
    binding: str | None = None
    todo: Sequence[str] = ()


def space_text(parts: SpaceParts, title: str) -> str:
    """The file's text."""
    what = "" if parts.definition else f"  # {TODO}: name of the flashinfer-bench definition that it solves"
    lines = [f"# {title}", f"definition: {value_text(parts.definition or NO_DEFINITION)}{what}"]
    lines.append(f"targets: [{', '.join(parts.targets)}]")
    lines.append(f"language: {parts.language}")
    lines.append(f"entry_point: {value_text(parts.entry_point)}")
    if parts.binding:
        lines.append(f"binding: {parts.binding}")
    if not parts.destination_passing:
        lines.append("destination_passing: false")
    if parts.dependencies:
        lines.append(f"dependencies: [{', '.join(value_text(d) for d in parts.dependencies)}]")
    if parts.size_axis is not None:
        lines.append(f"size_axis: {value_text(parts.size_axis)}")
    lines.append("")
    lines += [f"# {note}" for note in parts.notes]
    lines += [f"# {TODO}: {what}" for what in parts.todo]
    choices = parts.choices
    if choices.configs:
        lines += ["configs:", *(f"  - {value_text(_nested(config))}" for config in choices.configs)]
    if choices.parameters:
        texts = {n: _parameter_text(v, choices.docs.get(n)) for n, v in choices.parameters.items()}
        lines += ["parameters:", *_block(_nested(texts))]
    lines += ["", "default:", *_block(_nested({n: value_text(v) for n, v in choices.default.items()}))]
    if choices.starts:
        lines += ["", "starts:", *(f"  - config: {value_text(_nested(start))}" for start in choices.starts)]
    return "\n".join(lines) + "\n"


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """``{"gemm.BLOCK": 1}`` as ``{"gemm": {"BLOCK": 1}}``."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        group, dot, inner = name.partition(".")
        if dot:
            found.setdefault(group, {})[inner] = value
        else:
            found[name] = value
    return found


def _parameter_text(values: Sequence[Any], doc: str | None) -> str:
    listed = value_text(list(values))
    return listed if doc is None else f"{{values: {listed}, kind: categorical, doc: {json.dumps(doc)}}}"


def _block(texts: Mapping[str, Any]) -> Iterator[str]:
    """Texts in lines of their own, groups included."""
    for name, text in texts.items():
        if isinstance(text, Mapping):
            yield f"  {name}:"
            yield from (f"    {inner}: {item}" for inner, item in text.items())
        else:
            yield f"  {name}: {text}"


def value_text(value: Any) -> str:
    """A value in YAML's notation, in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {value_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(value_text(v) for v in value) + "]"
    if isinstance(value, float):  # JSON's 1e-06 is a text to YAML
        return str(yaml.safe_dump(value).splitlines()[0])
    if isinstance(value, str) and value.replace("_", "").isalnum() and not value[:1].isdigit():
        return json.dumps(value) if value.lower() in _WORDS else value
    return json.dumps(value)


_WORDS = frozenset(("true", "false", "yes", "no", "on", "off", "null", "y", "n"))
