"""What a sweep keeps of a regime while it runs: its search, its trials in flight, its leaders."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from db.records import StoredMeasurement
from search_spaces import Config
from tuner.search import Proposal, Search
from tuner.sweeps.objective import Objective
from tuner.sweeps.regimes import Regime
from tuner.sweeps.trials.modes import RegimeMode
from workers.records import BuildResult, Measurement, Variant


@dataclass(frozen=True)
class Leader:
    """A config that passed and may reach the final."""

    value: float
    config_hash: str
    config: Config
    artifact: str | None
    """None if this process did not build it."""
    mode: str = ""
    """The mode that it was timed in."""


@dataclass
class RegimeState:
    """The search of one regime and what it has found."""

    regime: Regime
    search: Search
    objective: Objective
    mode: RegimeMode[Trial]
    proposed: deque[Proposal] = field(default_factory=deque)
    """Proposals that were made ahead and that no trial has taken up yet."""
    asked: int = 0
    exhausted: bool = False
    default_hash: str = ""
    default: Leader | None = None
    """The default config, None until it has passed."""
    leaders: list[Leader] = field(default_factory=list)
    """The best trials that passed, best first; only as many as the final takes, since a sweep may have a million."""
    specialists: dict[str, Leader] = field(default_factory=dict)
    """Profile -> the best trial on its workloads alone, where the regime's workloads have several profiles."""

    def known_us(self, mode: str) -> Mapping[str, float]:
        """Workload -> the smallest median of the search; empty if that was timed in another mode."""
        return self.objective.least_us if self.mode.decided == mode else {}

    def note_specialists(self, leader: Leader, measured: Sequence[Measurement]) -> None:
        """Remember a trial that passed where it is the best so far on the workloads of a profile."""
        profiles = set(self.regime.profiles.values())
        for profile in sorted(profiles) if len(profiles) > 1 else ():
            part = self.regime.of_profile(profile)
            value = self.objective.of_passed([m for m in measured if m.workload in part])
            if profile not in self.specialists or value < self.specialists[profile].value:
                self.specialists[profile] = replace(leader, value=value)


@dataclass
class Trial:
    """A trial in flight."""

    number: int
    state: RegimeState
    proposal: Proposal
    config_hash: str
    variant: Variant
    started: float
    known: dict[str, StoredMeasurement] = field(default_factory=dict)
    build: BuildResult | None = None

    @property
    def key(self) -> str:
        """Key of this trial's evaluation. It names the regime, since a config may run in two regimes at once."""
        return f"{self.config_hash}@{self.state.regime.name}"
