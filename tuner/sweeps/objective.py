"""What a sweep minimises: the weighted mean logarithm of the median latency over a regime's workloads, corrected for
drift."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from workers.records import Measurement, Status


class Objective:
    """Scores the trials of one regime and knows the incumbent.

    The mean of logs is the log of the geometric mean, so a workload counts by its ratio, not by its length. Trials are
    compared at one speed of the device, that of the first measurement (docs/measurement.md, Drift).

    Args:
        workloads: The regime's workload uuids.
        weights: Uuid -> what the workload counts, 1 for those that are not named; 0 for one that only the guard of the
            finals looks at.
    """

    def __init__(self, workloads: Sequence[str], weights: Mapping[str, float] | None = None) -> None:
        self._workloads = tuple(workloads)
        self._weights = {w: (weights or {}).get(w, 1.0) for w in self._workloads}
        self._best: float | None = None
        self._best_log_us: dict[str, float] = {}
        self._least_us: dict[str, float] = {}
        self._first_us: float | None = None

    @property
    def least_us(self) -> Mapping[str, float]:
        """Workload -> the smallest median, in microseconds, of all that passed everywhere."""
        return self._least_us

    @property
    def best_us(self) -> float | None:
        """Geometric mean latency of the incumbent in microseconds, None before the first success."""
        return None if self._best is None else math.exp(self._best)

    def of_passed(self, measured: Sequence[Measurement]) -> float:
        """Objective of a trial that passed on all workloads."""
        return self._mean({m.workload: math.log(self._steady_us(m)) for m in measured})

    def note(self, measured: Sequence[Measurement]) -> None:
        """Record a trial that passed on all workloads; it becomes the incumbent if it is the best so far."""
        value = self.of_passed(measured)
        for m in measured:
            self._least_us[m.workload] = min(_median(m), self._least_us.get(m.workload, math.inf))
        if self._best is None or value < self._best:
            self._best = value
            self._best_log_us = {m.workload: math.log(self._steady_us(m)) for m in measured}

    def value(self, status: Status, measured: Sequence[Measurement]) -> float | None:
        """The value for the search: lower is better, None for a failure.

        A trial that was raced out gets an estimate: the incumbent's objective plus the mean log ratio on the workloads
        that it ran. So the search learns how bad the config is although the trial was cut short.
        """
        if status is Status.PASSED:
            return self.of_passed(measured)
        timed = [m for m in measured if m.median_us is not None and m.workload in self._best_log_us]
        if status is not Status.RACED_OUT or self._best is None or not timed:
            return None
        ratios = {m.workload: math.log(self._steady_us(m)) - self._best_log_us[m.workload] for m in timed}
        return self._best + self._mean(ratios)

    def limits_us(self, factor: float) -> dict[str, float]:
        """Workload -> median in microseconds above which a trial cannot plausibly become the incumbent.

        The limit applies to medians without correction for drift, which is small compared with the factor. The last
        of several workloads has none: nothing is left to save by then, and a trial that is slow there may have made up
        for it on the others.
        """
        last = self._workloads[-1] if len(self._workloads) > 1 else None
        return {w: math.exp(v) * factor for w, v in self._best_log_us.items() if w != last and self._weights[w]}

    def geomean_us(self, measured: Mapping[str, Measurement]) -> float | None:
        """Geometric mean over the regime's workloads of the medians as measured, None if one is missing."""
        if any(w not in measured for w in self._workloads):
            return None
        return math.exp(self._mean({w: math.log(_median(measured[w])) for w in self._workloads}))

    def _mean(self, values: Mapping[str, float]) -> float:
        """Weighted mean over workloads; the plain one where none of them counts."""
        total = sum(self._weights[w] for w in values)
        if total == 0:
            return sum(values.values()) / len(values)
        return sum(self._weights[w] * value for w, value in values.items()) / total

    def _steady_us(self, measurement: Measurement) -> float:
        """The median at the device's speed of the first measurement; as measured without a drift reference."""
        anchor_us = measurement.conditions.get("anchor_us")
        if not anchor_us:
            return _median(measurement)
        if self._first_us is None:
            self._first_us = float(anchor_us)
        return _median(measurement) * self._first_us / float(anchor_us)


def _median(measurement: Measurement) -> float:
    assert measurement.median_us is not None, f"a passed measurement of {measurement.workload} without a median"
    return measurement.median_us
