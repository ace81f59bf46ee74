"""Reads YAML and refuses values that YAML reads differently from how they look, saying what to write instead.

YAML 1.1 reads ``1e-3`` as a text, ``64_64`` as 6464, ``1:1`` as 61, ``010`` as 8, and ``on`` as true.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from search_spaces.parameters import SpaceError

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|0[oO][0-7]+")
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, except that a repeated key is an error instead of the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise SpaceError(f"line {key.start_mark.line + 1}: key {key.value!r} is given twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load(text: str, values: tuple[str, ...], but: tuple[str, ...]) -> Any:
    """Parse a YAML document.

    Args:
        text: YAML.
        values: Top-level keys below which values matter, so that a text that looks like a number is a mistake.
        but: Keys below those that hold free text.

    Raises:
        SpaceError: It is not YAML, repeats a key, or has a value that YAML reads differently from how it looks.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is not None:
                _check(node, loader, (), values, but, set())
            return None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise SpaceError(f"not YAML: {error}") from error
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        if isinstance(error, SpaceError):
            raise
        raise SpaceError(f"not YAML: {type(error).__name__} {error}") from error


def _check(
    node: yaml.Node,
    loader: _Loader,
    path: tuple[str, ...],
    values: tuple[str, ...],
    but: tuple[str, ...],
    seen: set[int],
) -> None:
    if id(node) in seen:  # an alias, which may refer to a node that contains it
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check(item, loader, path, values, but, seen)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            _check(key, loader, (), values, but, seen)
            _check(value, loader, (*path, name), values, but, seen)
    elif isinstance(node, yaml.ScalarNode) and node.style is None:
        stands_for_itself = bool(path) and path[0] in values and path[-1] not in but
        why = _misread(node, loader, stands_for_itself)
        if why is not None:
            raise SpaceError(f"line {node.start_mark.line + 1}: {why}")


def _misread(node: yaml.ScalarNode, loader: _Loader, stands_for_itself: bool) -> str | None:
    """How YAML reads a plain value and what to write instead; None if it is read as it looks."""
    text, kind = node.value, node.tag.removeprefix(_TAG)
    if kind == "str":
        if not stands_for_itself or not _NUMBER.fullmatch(text):
            return None
        number = int(text, 8) if text[1:2] in ("o", "O") else int(text) if text.lstrip("+-").isdigit() else float(text)
        return f"{text} is a text to YAML; write {_plain(number)} for the number, or '{text}' for the text"
    if kind in ("value", "merge") and stands_for_itself:
        return f"{text} is a sign of YAML's own; write '{text}' for the text"
    if kind == "timestamp":
        return f"{text} is a date to YAML; write '{text}' for the text"
    looks_different = {
        "bool": text.lower() not in ("true", "false"),
        "int": "_" in text or ":" in text or re.match(r"[-+]?0\d", text) is not None,
        "float": "_" in text or ":" in text,
    }
    if not looks_different.get(kind, False):
        return None
    meant = _plain(loader.construct_object(node))
    return f"{text} is {meant} to YAML; write {meant}, or '{text}' for the text"


def _plain(value: Any) -> str:
    """The value in YAML's notation."""
    return str(yaml.safe_dump(value).splitlines()[0])
