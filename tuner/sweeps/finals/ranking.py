"""Chooses the winner among finalists, says how ties are decided, and when it is certain enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tuner.sweeps.finals.guard import Guard
from tuner.sweeps.finals.statistics import TIE_MARGIN, Ratio, Rounds, compare, weighted_mean


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
