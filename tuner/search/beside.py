"""Searches of one space at several sizes, such as the regimes of a sweep, learn from each other."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from tuner.search.search import Search


def introduce(searches: Sequence[Search], sizes: Sequence[Collection[int]]) -> None:
    """Let searches learn from each other, the more the nearer their sizes are: one Gaussian process over configs and
    size, whose length scale for the size says how much they have in common.

    Args:
        searches: Of one space at several sizes: default and constraints on the size may differ, parameters may not.
        sizes: What each of them searches for.
    """
    if len(searches) < 2 or not all(len(own) for own in sizes):
        return
    middles = [sum(math.log1p(size) for size in own) / len(own) for own in sizes]
    low, high = min(middles), max(middles)
    places = [(middle - low) / (high - low) if high > low else 0.0 for middle in middles]
    for search, place in zip(searches, places, strict=True):
        search.learn_beside(place, [other for other in searches if other is not search])
