"""Times a candidate: warm-up, then samples until the median is known well enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from workers.device import Device, Run
from workers.interval import MedianInterval, median_interval
from workers.records import Method

_MIN_WARMUP_RUNS = 1
"""The check has run the candidate before; on slow workloads more would cost as much as the samples."""


@dataclass(frozen=True)
class Timing:
    """All samples in the order taken, their median with interval, and the conditions before and after."""

    samples_us: tuple[float, ...]
    interval: MedianInterval
    conditions: Mapping[str, Any] = field(default_factory=dict)


def warm_up(run: Run, method: Method, device: Device) -> None:
    """Run for ``warmup_s`` seconds, at least once."""
    end = time.perf_counter() + method.warmup_s
    runs = 0
    while runs < _MIN_WARMUP_RUNS or time.perf_counter() < end:
        run()
        device.synchronize()
        runs += 1


def measure(
    run: Run,
    method: Method,
    device: Device,
    stop_above_us: float | None = None,
    before_sample: Callable[[], None] | None = None,
) -> Timing:
    """Take samples of a run.

    After ``min_samples`` it stops at ``max_samples`` or ``budget_s``, or once both ends of the interval are within
    ``target_rel_ci`` of the median, or once its lower end is above ``stop_above_us``: the verdict will not change.

    Args:
        run: One call on fixed arguments; correctness is not looked at here.
        method: How.
        device: Where.
        stop_above_us: Median that would lose.
        before_sample: Done before each sample, outside the timed part and before the cache is flushed.

    Raises:
        ValueError: The device cannot time in the method's mode.
    """
    check_mode(method, device)
    run = device.prepare(run, method.mode)
    warm_up(run, method, device)
    before = device.conditions()
    samples: list[float] = []
    deadline = time.perf_counter() + method.budget_s
    while True:
        if before_sample is not None:
            before_sample()
        samples.append(device.time_us(run, method.cold_cache))
        count = len(samples)
        if count < method.min_samples:
            continue
        if count >= method.max_samples or time.perf_counter() >= deadline:
            break
        if _is_due(count):
            interval = median_interval(samples)
            if interval.rel_half_width <= method.target_rel_ci:
                break
            if stop_above_us is not None and interval.low > stop_above_us:
                break
    return Timing(tuple(samples), median_interval(samples), _both(before, device.conditions()))


def check_mode(method: Method, device: Device) -> None:
    """Raises ValueError if the device cannot time in the method's mode."""
    if method.mode not in device.modes:
        raise ValueError(f"device {device.name} cannot time in mode {method.mode!r}; it can in {list(device.modes)}")


def _is_due(count: int) -> bool:
    """Look at the interval seldom: every look is a chance to stop on a lucky streak, and costs time between samples."""
    return count < 16 or count % 8 == 0


def _both(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Readings before and after; one value where they agree."""
    found: dict[str, Any] = {}
    for key in {**before, **after}:
        first, last = before.get(key), after.get(key)
        found[key] = first if first == last else [first, last]
    return found
