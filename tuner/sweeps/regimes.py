"""Regimes: the size ranges into which a definition's workloads fall. Each is searched on its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from search_spaces.inputs.generator import RECORDED
from tuner.errors import UsageError
from tuner.settings import DEFAULT_BOUNDS

NEAREST_LIMIT = 4.0
"""Largest factor between a size and the nearest measured one for which that one's config is used."""


@dataclass(frozen=True)
class Regime:
    """A size range and its workloads.

    Args:
        name: ``lo-hi``, ``lo+`` or ``all``.
        low: Smallest size in it, None if the definition has no size axis.
        bound: Largest size in it, None for the last regime.
        workloads: Workload uuids, the representative one first, then from the middle size outwards.
        sizes: Uuid -> size; empty without a size axis.
        weights: Uuid -> what the workload counts in the objective; 1 for those that are not named.
        profiles: Uuid -> profile of its inputs, for those that have one of their own.
    """

    name: str
    low: int | None
    bound: int | None
    workloads: tuple[str, ...]
    sizes: Mapping[str, int] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    profiles: Mapping[str, str] = field(default_factory=dict)

    def of_profile(self, profile: str) -> tuple[str, ...]:
        """The workloads with inputs of one profile."""
        return tuple(w for w in self.workloads if self.profiles.get(w, RECORDED) == profile)


def split(sizes: Mapping[str, int | None], bounds: Sequence[int] = DEFAULT_BOUNDS) -> list[Regime]:
    """The regimes that have workloads, by rising size.

    Args:
        sizes: Workload uuid -> value of the size axis, None for a definition without one.
        bounds: Largest size of each regime but the last, rising.

    Raises:
        UsageError: The bounds do not rise, or there is no workload.
    """
    if not sizes:
        raise UsageError("no workload to tune for; the dataset has none for this definition and filter")
    if list(bounds) != sorted(set(bounds)) or any(b < 1 for b in bounds):
        raise UsageError(f"regimes must be rising positive sizes such as 8,32,128; got {','.join(map(str, bounds))}")
    if any(size is None for size in sizes.values()):
        return [Regime("all", None, None, tuple(sizes))]
    regimes = []
    edges: list[int | None] = [*bounds, None]
    low = 0
    for bound in edges:
        members = {u: s for u, s in sizes.items() if s is not None and s >= low and (bound is None or s <= bound)}
        if members:
            name = f"{low}+" if bound is None else f"{low}-{bound}"
            regimes.append(Regime(name, low, bound, _representative_first(members), members))
        low = (bound or 0) + 1
    last = regimes[-1]
    regimes[-1] = replace(last, bound=None)
    return regimes


def _representative_first(sizes: Mapping[str, int]) -> tuple[str, ...]:
    """Uuids ordered by the distance of their rank from the middle, so that the first represent the whole range."""
    ranked = sorted(sizes, key=lambda uuid: (sizes[uuid], uuid))
    middle = (len(ranked) - 1) / 2
    return tuple(ranked[i] for i in sorted(range(len(ranked)), key=lambda i: (abs(i - middle), i)))
