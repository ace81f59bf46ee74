"""The guard: which configs cannot win, though their mean is best, since they are slow on some workload."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tuner.sweeps.finals.statistics import TIE_MARGIN, Rounds, compare


@dataclass(frozen=True)
class Guard:
    """What a config must not be on any workload, however good its mean is: slower than the default, or far behind.

    Args:
        factor: How many times slower than the best known it may be at most.
        best_us: Workload -> smallest median in microseconds that is known from elsewhere, as from the search.
    """

    factor: float = math.inf
    best_us: Mapping[str, float] = field(default_factory=dict)

    def refused(self, rounds: Mapping[str, Rounds], default: str | None, looks: int = 1) -> dict[str, str]:
        """Key -> why it cannot win, for those that the guard refuses.

        A config is slower than the default beyond noise if its whole interval is, at a confidence shared among all
        questions that are asked, and by more than TIE_MARGIN.
        """
        median = {k: {w: float(np.median(v)) for w, v in by.items()} for k, by in rounds.items()}
        workloads = sorted(next(iter(rounds.values())))
        best = {w: min(self.best_us.get(w, math.inf), *(m[w] for m in median.values())) for w in workloads}
        confidence = 1 - 0.05 / (max(1, looks) * max(1, len(rounds) - 1) * len(workloads))
        found: dict[str, str] = {}
        for key, by in rounds.items():
            worst = max(workloads, key=lambda w: median[key][w] / best[w])
            behind = median[key][worst] / best[worst]
            # What takes its place would be worse there: the best known is from the search, and other load may be why.
            in_vain = default is not None and key != default and median[default][worst] >= median[key][worst]
            if behind > self.factor and not in_vain:
                found[key] = f"{behind:.3g} times the best known on {worst}, at most {self.factor:g} are allowed"
            if default is None or key == default:
                continue
            ratios = {w: compare({w: by[w]}, {w: rounds[default][w]}, confidence) for w in workloads}
            slower = [w for w, r in ratios.items() if r.verdict == "slower" and r.ratio > 1 + TIE_MARGIN]
            if slower:
                most = max(slower, key=lambda w: ratios[w].ratio)
                more = f" and on {len(slower) - 1} more" if len(slower) > 1 else ""
                found[key] = f"slower than the default on {most}, by {ratios[most].ratio - 1:.1%}{more}"
        return found
