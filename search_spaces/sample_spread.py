"""Draws a small sample of a space in which every value occurs."""

from __future__ import annotations

import contextlib
import random
from collections import Counter

from search_spaces.constraint_search import Effort, TooSparseError
from search_spaces.parameters import Config
from search_spaces.space import SearchSpace

CANDIDATES_PER_PICK = 16


def spread(space: SearchSpace, count: int, seed: int) -> list[Config]:
    """The default and random valid configs chosen so that every value of every parameter occurs about equally often.

    Of some random candidates, each step takes the one whose values are the rarest in the sample so far. The result has
    fewer than ``count`` configs only if the space has, or if they are too rare to be found within seconds.
    """
    rng = random.Random(seed)
    chosen = {space.config_hash(space.default): space.check(space.default)}
    used = Counter(space.default.items())
    misses = 0
    effort = Effort()
    while len(chosen) < count and misses < 50 and not effort.used_up:
        fresh = [c for c in _candidates(space, rng, effort) if space.config_hash(c) not in chosen]
        if not fresh:
            misses += 1
            continue
        best = min(fresh, key=lambda c: sorted(used[item] for item in c.items()))
        chosen[space.config_hash(best)] = best
        used.update(best.items())
    if len(chosen) < count and not effort.used_up:
        with contextlib.suppress(TooSparseError):
            for point in space.walk.points(effort):
                config = space.config_at(point)
                chosen.setdefault(space.config_hash(config), config)
                if len(chosen) == count:
                    break
    return list(chosen.values())


def _candidates(space: SearchSpace, rng: random.Random, effort: Effort) -> list[Config]:
    found: list[Config] = []
    with contextlib.suppress(TooSparseError):
        for _ in range(CANDIDATES_PER_PICK):
            found.append(space.config_at(space.walk.sample(rng, effort)))
    return found
