"""Decides which of several variants is faster, and when that is certain enough.

The samples come from interleaved rounds (every variant once on every workload, in shuffled order), so the differences
within a round are paired: a disturbance of the machine affects all variants alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from workers.judge.timing.interval import median_interval

TIE_MARGIN = 0.005
"""Variants whose ratio is known to be this close to 1 count as equally fast."""


@dataclass(frozen=True)
class Ratio:
    """Time of one variant over that of another: the median over rounds, and its interval."""

    ratio: float
    low: float
    high: float

    @property
    def verdict(self) -> Literal["faster", "slower", "tie", "open"]:
        """The conclusion: ``tie`` if the whole interval is within TIE_MARGIN, ``open`` if more rounds are needed."""
        if abs(self.low - 1) <= TIE_MARGIN and abs(self.high - 1) <= TIE_MARGIN:
            return "tie"
        if self.high < 1:
            return "faster"
        return "slower" if self.low > 1 else "open"


Rounds = Mapping[str, Sequence[float]]
"""Workload -> one latency in microseconds per round."""


def compare(a: Rounds, b: Rounds, confidence: float = 0.95, weights: Mapping[str, float] | None = None) -> Ratio:
    """Ratio of ``a`` to ``b``: per round the geometric mean of a/b over workloads, then the median over rounds.

    ``weights`` says what each workload counts, 1 for those that are not named. The interval is distribution-free (order
    statistics of the paired rounds).

    Raises:
        ValueError: The two do not have the same workloads and rounds.
    """
    if set(a) != set(b) or not a:
        raise ValueError(f"paired variants need the same workloads, got {sorted(a)} and {sorted(b)}")
    lengths = {len(v) for v in [*a.values(), *b.values()]}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"paired variants need the same number of rounds, got {sorted(lengths)}")
    logs = weighted_mean(
        {w: np.log(np.asarray(a[w], float)) - np.log(np.asarray(b[w], float)) for w in sorted(a)}, weights
    )
    known = median_interval(logs.tolist(), confidence)
    return Ratio(math.exp(known.median), math.exp(known.low), math.exp(known.high))


def weighted_mean(values: Mapping[str, Any], weights: Mapping[str, float] | None = None) -> Any:
    """Mean over workloads of numbers or arrays, by weight (1 if not named); the plain one where none counts."""
    counts = [1.0 if weights is None else weights.get(w, 1.0) for w in values]
    return np.average(list(values.values()), axis=0, weights=counts if any(counts) else None)


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
            if behind > self.factor:
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


@dataclass(frozen=True)
class Ranking:
    """The outcome of a final.

    Args:
        winner: The key of the variant to use.
        against_winner: Key -> its time over the winner's.
        settled: Whether every other finalist is known to be slower than or tied with the fastest one.
        reason: One line for the record.
        refused: Key -> why the guard does not let it win, though its mean is better than the winner's.
    """

    winner: str
    against_winner: Mapping[str, Ratio]
    settled: bool
    reason: str
    refused: Mapping[str, str] = field(default_factory=dict)


def rank(
    rounds: Mapping[str, Rounds],
    simplicity: Mapping[str, tuple],
    default: str | None = None,
    looks: int = 1,
    weights: Mapping[str, float] | None = None,
    guard: Guard | None = None,
) -> Ranking:
    """Choose among finalists.

    The fastest by point estimate leads. A variant that is tied with the leader (within TIE_MARGIN, at the confidence)
    wins instead if it is simpler. A leader that is not known to be faster than the default gives way to the default.
    Only those lead that the guard does not refuse; if it refuses all and there is no default, the fastest leads.

    Args:
        rounds: Key -> its samples; all paired.
        simplicity: Key -> sort key, smaller is simpler.
        default: Key of the default config, None if it is not among the finalists (it failed).
        looks: How often the ranking will be computed. Each time and each comparison gets its share of the error
            probability (Bonferroni), so that stopping early does not favour lucky results.
        weights: Workload -> what it counts, 1 for those that are not named.
        guard: What a winner must not be on any workload.
    """
    refused = {} if guard is None else guard.refused(rounds, default, looks)
    if default is not None:
        refused.pop(default, None)  # it is what users have now
    keys = [k for k in rounds if k not in refused] or list(rounds)
    confidence = 1 - 0.05 / max(1, looks * (len(rounds) - 1))
    # In a fixed order, so that the same samples give the same bits and the same winner.
    centre = {
        k: weighted_mean({w: np.log(np.median(by[w])) for w in sorted(by)}, weights) for k, by in sorted(rounds.items())
    }
    leader = min(keys, key=lambda k: (centre[k], simplicity[k]))
    versus = {k: compare(rounds[k], rounds[leader], confidence, weights) for k in keys if k != leader}
    ties = [k for k in versus if versus[k].verdict == "tie"]
    winner = min([leader, *ties], key=lambda k: simplicity[k])
    settled = all(v.verdict != "open" for v in versus.values())
    reason = "fastest" if winner == leader else f"tied with the fastest within {TIE_MARGIN:.1%}, and simpler"
    if default is not None and winner != default:
        against_default = compare(rounds[winner], rounds[default], confidence, weights)
        if against_default.verdict not in ("faster",):
            winner = default
            reason = "no finalist is known to be faster than the default"
    against = {k: compare(rounds[k], rounds[winner], weights=weights) for k in rounds if k != winner}
    # Those that are behind anyway need no guard, and a line for each would hide the others.
    refused = {k: why for k, why in refused.items() if k == winner or centre[k] < centre[winner]}
    if refused and winner not in refused:
        reason += f"; {len(refused)} refused by the guard"
    return Ranking(winner, against, settled, reason, refused)
