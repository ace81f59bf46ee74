"""A small sample of a space in which every value comes up."""

from __future__ import annotations

import random
from collections import Counter

from search_spaces.space import Config, SearchSpace

CANDIDATES_PER_PICK = 16


def spread(space: SearchSpace, count: int, seed: int) -> list[Config]:
    """The default and random valid configs chosen so that every value of every parameter comes up about equally often.

    Each pick is the one of some random candidates whose rarest values have been picked least so far. Fewer than
    ``count`` configs come back only if the space has fewer.
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
