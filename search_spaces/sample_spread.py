"""Draws a small sample of a space in which every value occurs."""

from __future__ import annotations

import random
from collections import Counter

from search_spaces.space import Config, SearchSpace

CANDIDATES_PER_PICK = 16


def spread(space: SearchSpace, count: int, seed: int) -> list[Config]:
    """The default and random valid configs chosen so that every value of every parameter occurs about equally often.

    Of some random candidates, each step takes the one whose values are the rarest in the sample so far. The result has
    fewer than ``count`` configs only if the space has.
    """
    rng = random.Random(seed)
    chosen = {space.config_hash(space.default): space.check(space.default)}
    used = Counter(space.default.items())
    misses = 0
    while len(chosen) < count and misses < 50:
        fresh = [c for _ in range(CANDIDATES_PER_PICK) if space.config_hash(c := space.sample(rng)) not in chosen]
        if not fresh:
            misses += 1
            continue
        best = min(fresh, key=lambda c: sorted(used[item] for item in c.items()))
        chosen[space.config_hash(best)] = best
        used.update(best.items())
    if len(chosen) < count:
        for config in space.enumerate():
            chosen.setdefault(space.config_hash(config), config)
            if len(chosen) == count:
                break
    return list(chosen.values())
