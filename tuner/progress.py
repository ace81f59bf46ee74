"""What a command is doing, told to whoever watches it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

SLOW_S = 15.0
"""A build or an evaluation that takes longer is named."""


@dataclass(frozen=True)
class Slow:
    """A trial that has waited for something for ``waits_s`` seconds; that alone may take ``limit_s``."""

    trial: int
    thing: str
    waits_s: float
    limit_s: float


@dataclass(frozen=True)
class Progress:
    """A snapshot of a running sweep, for display. Latencies are geometric means over a regime's workloads."""

    phase: Literal["start", "search", "finals", "done"]
    done: int
    max_trials: int | None
    elapsed_s: float
    budget_s: float | None
    building: int
    evaluating: int
    failures: Mapping[str, int]
    raced_out: int
    reused: int
    best_us: Mapping[str, float | None]
    default_us: Mapping[str, float | None]
    reference_us: Mapping[str, float | None]
    slow: tuple[Slow, ...] = ()


class Steps:
    """Is told what a command does, and shows nothing."""

    def say(self, text: str) -> None:
        """Print a line that stays."""

    def step(self, text: str, limit_s: float | None = None) -> None:
        """Show what is done from now on, and how many seconds it may take at most."""

    def tick(self) -> None:
        """Update what is shown."""
