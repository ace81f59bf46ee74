"""What a sweep is to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from search_spaces import Config, SearchSpace
from tuner.search.expectation import Expect
from tuner.settings import SweepSettings
from tuner.sweeps.regimes import Regime
from workers.records import Method


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep is to do: its settings, and the objects that they name."""

    definition: dict[str, Any]
    space: SearchSpace
    regimes: tuple[Regime, ...]
    method: Method
    settings: SweepSettings
    time_reference: bool = True
    retry_failed: bool = False
    """Whether trials of earlier processes of the sweep that failed for a reason of the machine are made again."""
    warm_start: Mapping[str, tuple[Config, ...]] = field(default_factory=dict)
    """Regime name -> configs to try right after the default."""
    prior: Mapping[str, tuple[tuple[Config, float | None], ...]] = field(default_factory=dict)
    """Regime name -> finished trials of a related sweep, for the search to learn from."""
    expect: Mapping[str, Expect] = field(default_factory=dict)
    """Regime name -> what the space's model expects of a config."""
