"""Groups of parameters: a nested mapping in ``space.yaml`` is the same as names with dots.

``gemm_1: {block_m: 64}`` and ``gemm_1.block_m: 64`` say the same. Everywhere else there are only names with dots.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from search_spaces.parameters import SpaceError

DEEPEST = 8
"""Most groups inside one another. YAML can put a mapping into itself."""
MOST = 1000
"""Most names in one mapping."""


def flat_config(given: Mapping[Any, Any]) -> dict[Any, Any]:
    """A config, or a part of one, without groups.

    Raises:
        SpaceError: A parameter is given twice, or groups go on without an end.
    """
    return _flat(given, lambda value: isinstance(value, dict) and bool(value))


def flat_parameters(given: Mapping[Any, Any], keys: Collection[str]) -> dict[Any, Any]:
    """Declarations of parameters without groups.

    A group holds declarations alone: mappings and lists of values, and none of the keys of a declaration.

    Args:
        given: Name -> declaration or group.
        keys: Keys of a declaration.

    Raises:
        SpaceError: As for :func:`flat_config`.
    """

    def is_group(value: Any) -> bool:
        if not isinstance(value, dict) or not value or any(key in keys for key in value):
            return False
        return all(isinstance(inner, dict | list) for inner in value.values())

    return _flat(given, is_group)


def _flat(
    given: Mapping[Any, Any], is_group: Callable[[Any], bool], above: str = "", depth: int = DEEPEST
) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for name, value in given.items():
        full = f"{above}.{name}" if above else name
        if is_group(value):
            if not depth:
                raise SpaceError(f"more than {DEEPEST} groups are inside one another")
            inside = _flat(value, is_group, str(full), depth - 1)
        else:
            inside = {full: value}
        for twice in found.keys() & inside.keys():
            raise SpaceError(f"parameter {twice!r} is given twice, nested and with a dot")
        found |= inside
        if len(found) > MOST:
            raise SpaceError(f"a mapping has more than {MOST} parameters")
    return found
