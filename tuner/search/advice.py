"""Whether more trials still pay."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StopAdvice:
    """What the search expects of more trials.

    Args:
        stop: Whether to end the sweep.
        expected_regret: Expected share by which the best known value still exceeds the optimum (0.02: 2 %), None
            where nothing can be said.
        probability_of_improvement: Chance that any further trial beats the incumbent, None likewise.
        reason: One line for people.
    """

    stop: bool
    expected_regret: float | None
    probability_of_improvement: float | None
    reason: str
