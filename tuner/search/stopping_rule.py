"""Whether more trials still pay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

TOLERANCE = 0.005
"""Expected regret below which more trials do not pay, in the unit of the values: half a percent of a log latency."""
FEWEST_TRIALS = 40
"""Finished trials before any stop: the model of the space is too young to be believed."""
PATIENCE = 60
"""Trials without a better one before any stop: models of rugged spaces are too sure of themselves."""
PATIENCE_SHARE = 0.5
"""Without a model: the share of all trials that must have brought nothing better."""


@dataclass(frozen=True)
class Outlook:
    """What a strategy's model expects of all configs that are still free.

    Args:
        regret: Expected amount by which the incumbent exceeds the best of them, in the unit of the values.
        improvement: Probability that any of them is better.
    """

    regret: float
    improvement: float


@dataclass(frozen=True)
class StopAdvice:
    """What the search expects of more trials.

    Args:
        stop: Whether to end the sweep.
        expected_regret: Expected amount by which the incumbent exceeds the optimum, in the unit of the values told (for
            log latencies: 0.02 is 2 %); None where the strategy has no model.
        probability_of_improvement: Chance that any config that was not tried beats the incumbent, None likewise.
        reason: One line for people.
    """

    stop: bool
    expected_regret: float | None
    probability_of_improvement: float | None
    reason: str


def advise(values: Sequence[float | None], outlook: Outlook | None, *, exhausted: bool) -> StopAdvice:
    """Advice from what was told so far.

    Args:
        values: Of the finished trials in order; None for a failure.
        outlook: Of the strategy's model.
        exhausted: No config is left.
    """
    regret = None if outlook is None else outlook.regret
    improvement = None if outlook is None else outlook.improvement

    def advice(stop: bool, reason: str) -> StopAdvice:
        return StopAdvice(stop, regret, improvement, reason)

    if exhausted:
        return StopAdvice(True, 0.0, 0.0, "every valid config was tried")
    if len(values) < FEWEST_TRIALS:
        return advice(False, f"{len(values)} trials are finished; nothing is said before {FEWEST_TRIALS}")
    since = _since_best(values)
    if outlook is None:
        patience = max(PATIENCE, int(PATIENCE_SHARE * len(values)))
        return advice(since >= patience, f"{since} trials without a better one; the limit is {patience}")
    expected = f"expected regret {outlook.regret:.4f}, chance of a better config {outlook.improvement:.0%}"
    if since < PATIENCE:
        return advice(False, f"{expected}; the last better one is only {since} trials old")
    return advice(outlook.regret < TOLERANCE, f"{expected}; the limit is {TOLERANCE}")


def _since_best(values: Sequence[float | None]) -> int:
    """Trials after the best one; all of them if none passed."""
    passed = [(v, i) for i, v in enumerate(values) if v is not None]
    return len(values) if not passed else len(values) - 1 - min(passed)[1]
