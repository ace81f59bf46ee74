"""Search spaces by name: the built-in families, other packages' (entry points) and folders with a space.yaml."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from search_spaces.parameters import SpaceError
from search_spaces.space import SearchSpace, SpaceFamily

ENTRY_POINT_GROUP = "tuner.search_spaces"
"""Other packages name a :class:`SpaceFamily` instance here."""

_BUILT_IN = {
    "moe_fp8_cpu": "search_spaces.moe_fp8_cpu:FAMILY",
    "moe_fp8_cute": "search_spaces.moe_fp8_cute:FAMILY",
}


def names() -> list[str]:
    """All names that ``--space`` accepts besides a folder."""
    return sorted({*_BUILT_IN, *(e.name for e in entry_points(group=ENTRY_POINT_GROUP))})


def family(name_or_folder: str) -> SpaceFamily:
    """The family of a name, or of a folder with a ``space.yaml``.

    Raises:
        SpaceError: Neither a known name nor such a folder, or the folder's ``space.yaml`` is not usable.
    """
    if name_or_folder in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name_or_folder].partition(":")
        found: SpaceFamily = getattr(importlib.import_module(module), attribute)
        return found
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name == name_or_folder:
            loaded = entry.load()
            if not isinstance(loaded, SpaceFamily):
                raise SpaceError(f"entry point {entry.value!r} of space {entry.name!r} is not a SpaceFamily")
            return loaded
    if Path(name_or_folder).is_dir():
        from search_spaces.directory import DirectoryFamily

        return DirectoryFamily(Path(name_or_folder))
    if len(Path(name_or_folder).parts) > 1:
        raise SpaceError(f"the folder of search space {name_or_folder} does not exist; if it has moved, give --space")
    raise SpaceError(
        f"unknown search space {name_or_folder!r}; known are {', '.join(names())}, or a folder with a space.yaml"
    )


def for_definition(definition: Mapping[str, Any], target: str) -> SpaceFamily:
    """The family that solves a definition on a target; the first by name if several do.

    Raises:
        SpaceError: None does; the message says why each one refuses.
    """
    reasons = []
    for name in names():
        candidate = family(name)
        if target not in candidate.targets:
            reasons.append(f"{name}: targets are {', '.join(candidate.targets)}")
            continue
        why = candidate.why_not(definition)
        if why is None:
            return candidate
        reasons.append(f"{name}: {why}")
    raise SpaceError(f"no search space solves {definition['name']!r} on {target}; " + "; ".join(reasons))


def family_for(definition: Mapping[str, Any], target: str, name_or_folder: str | None = None) -> SpaceFamily:
    """The family to sweep a definition with on a target.

    Raises:
        SpaceError: See :func:`family` and :func:`for_definition`; also when the named family does not fit.
    """
    chosen = for_definition(definition, target) if name_or_folder is None else family(name_or_folder)
    if target not in chosen.targets:
        raise SpaceError(f"space {chosen.name!r} has no target {target!r}; it has {', '.join(chosen.targets)}")
    why = chosen.why_not(definition)
    if why is not None:
        raise SpaceError(f"space {chosen.name!r} cannot solve {definition['name']!r}: {why}")
    return chosen


def space_for(definition: Mapping[str, Any], target: str, name_or_folder: str | None = None) -> SearchSpace:
    """The space of :func:`family_for`."""
    return family_for(definition, target, name_or_folder).space(definition, target)
