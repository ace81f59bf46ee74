"""What a sweep's loop found, and where the evaluators' time went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from db.records import WinnerRecord
from tuner.sweeps.failures import Failures
from tuner.sweeps.finals.crossings import Crossing
from tuner.sweeps.finals.final import FinalResult, summed
from tuner.sweeps.regimes import Regime
from tuner.sweeps.reuse import LoadBeside
from workers.records import Measurement


@dataclass(frozen=True)
class SweepResult:
    """What a sweep found. ``finals`` has an entry for each regime with at least one config that passed."""

    sweep_id: int
    finals: Mapping[str, FinalResult]
    winners: list[WinnerRecord]
    reference: Mapping[str, Measurement]
    trials: int
    failures: Mapping[str, int]
    usage: Mapping[str, Any] = field(default_factory=dict)
    """Where the evaluators' time went in this process: see :func:`evaluator_usage`."""
    made_anew: int = 0
    """Number of stored measurements that were not reused because other load was on the machine when they were taken."""
    beside_load: Sequence[LoadBeside] = ()
    """The other load of each measurement of this process that was taken beside some."""
    reasons: Failures = field(default_factory=Failures)
    """Why trials failed."""
    regimes: Sequence[Regime] = ()
    """The regimes that winners serve: the plan's, some of them divided."""
    crossings: Sequence[Crossing] = ()
    """Where the winners of neighbouring regimes cross."""
    timed_eagerly: Sequence[str] = ()
    """What was timed eagerly though graphs were tried, a line each."""


def evaluator_usage(search: Mapping[str, float], finals: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Seconds by kind (see :class:`workers.records.Evaluation`) of search and finals, and the share of the evaluators'
    wall time, waiting for jobs included, in which the device ran candidates or checks of them."""
    parts = {"search": dict(search), "finals": summed(finals)}
    parts["all"] = summed([*parts.values()])
    for part in parts.values():
        wall_s = part.get("evaluate_s", 0.0) + part.get("idle_s", 0.0)
        if wall_s > 0:
            part["gpu_busy_share"] = (part.get("candidate_s", 0.0) + part.get("check_s", 0.0)) / wall_s
    return parts
