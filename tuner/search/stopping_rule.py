"""Whether more trials are worth it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

TOLERANCE = 0.005
"""Expected regret below which a search may stop, in units of the log latency: half a percent."""
FEWEST_TRIALS = 40
"""Fewest finished trials before a stop: a model of fewer is not reliable."""
PATIENCE = 60
"""Fewest trials since the best one before a stop: models of rugged spaces are overconfident."""
PATIENCE_SHARE = 0.5
"""For samplers without a model: the share of all trials, at the end, that must have found nothing better."""


@dataclass(frozen=True)
class Outlook:
    """What a sampler's model expects of all configs that are still free.

    Args:
        regret: Expected amount by which the incumbent is above the best of them, in the unit of the values.
        improvement: Probability that any of them is better.
    """

    regret: float
    improvement: float


@dataclass(frozen=True)
class StopAdvice:
    """Whether to stop, and what more trials are expected to gain.

    Args:
        stop: Whether to end the sweep.
        expected_regret: Expected amount by which the incumbent is above the optimum, in the unit of the values (for log
            latencies 0.02 is 2 %); None if the sampler has no model.
        probability_of_improvement: Probability that an untried config beats the incumbent; None without a model.
        reason: One line for people.
    """

    stop: bool
    expected_regret: float | None
    probability_of_improvement: float | None
    reason: str


def advise(values: Sequence[float | None], outlook: Outlook | None, *, exhausted: bool) -> StopAdvice:
    """Advice from the results so far.

    Args:
        values: Value of each finished trial, in order; None for a failure.
        outlook: What the sampler's model expects, None without a model.
        exhausted: Whether no config is left.
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
    """Number of trials after the best one; the number of all trials if none passed."""
    passed = [(v, i) for i, v in enumerate(values) if v is not None]
    return len(values) if not passed else len(values) - 1 - min(passed)[1]
