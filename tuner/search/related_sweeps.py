"""What earlier sweeps of other sizes or hardware tell a search: its first configs, and their trials."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

from db.records import RelatedConfig
from db.store import Store
from search_spaces import Config, SearchSpace

FIRST = 3
"""Configs of related sweeps that a regime begins with."""


def suggested(
    store: Store, space: SearchSpace, definition: str, hardware: str, regimes: Mapping[str, Iterable[int | None]]
) -> dict[str, tuple[Config, ...]]:
    """For each regime the best configs of related sweeps (other shapes, other hardware) in the regime of the same name
    or in one of other bounds, such as a part of it, that holds some of its sizes; then the starts that suit its sizes.

    Args:
        store: The database.
        space: The space.
        definition: Name of the definition.
        hardware: As the environment records it.
        regimes: Name -> sizes of its workloads.
    """
    related = store.best.related(space.name, definition=definition, hardware=hardware, limit=2 * FIRST * len(regimes))
    found = {}
    for name, sizes in regimes.items():
        configs = [dict(c.config) for c in related if _is_for(c, name, sizes, regimes)][:FIRST]
        found[name] = (*configs, *(dict(s.config) for s in space.starts if s.suits(sizes)))
    return found


def _is_for(
    related: RelatedConfig, name: str, sizes: Iterable[int | None], regimes: Mapping[str, Iterable[int | None]]
) -> bool:
    """Whether a winner of another sweep is one for the regime of this name and these sizes."""
    if related.regime in regimes or related.min_size is None:
        return related.regime == name
    highest = math.inf if related.max_size is None else related.max_size
    return any(size is not None and related.min_size <= size <= highest for size in sizes)


def prior(
    store: Store, space: SearchSpace, definition: str, hardware: str, regimes: Collection[str]
) -> dict[str, tuple[tuple[Config, float | None], ...]]:
    """The trials of the nearest finished sweep of the same space family, for the regime of the same name."""
    nearest = store.best.related(space.name, definition=definition, hardware=hardware, limit=1)
    if not nearest:
        return {}
    trials = store.trials.of(nearest[0].sweep_id, measurements=False)
    return {name: tuple((dict(t.config), t.objective) for t in trials if t.regime == name) for name in regimes}
