"""Times a candidate: warm-up, then samples until the median is precise enough. Doubtful measurements are retaken.

docs/measurement.md describes the method.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from workers.devices.device import CANDIDATE, Device, Run, Sample
from workers.judge.timing.interval import MedianInterval, median_interval
from workers.records import Method

_MAX_WARMUP_RUNS = 2000
_AGAIN_SHARE = 0.25
"""Share of the warm-up that is repeated if the host was busy for some milliseconds after it."""

_DRIFT_SHARE = 0.02
"""Largest share by which the medians of a measurement's halves may differ."""

_DRIFT_SAMPLES = 8
"""Fewest samples for which the medians of the halves are compared."""


@dataclass(frozen=True)
class Timing:
    """All samples in the order taken, their median with interval, and the conditions before and after."""

    samples_us: tuple[float, ...]
    interval: MedianInterval
    conditions: Mapping[str, Any] = field(default_factory=dict)


def warm_up(run: Run, method: Method, device: Device) -> None:
    """Run for about ``warmup_s`` seconds, at least once. The device may still be busy on return."""
    began = time.perf_counter()
    with device.span(CANDIDATE):
        run()
    device.synchronize()
    once = max(time.perf_counter() - began, 1e-6)
    with device.span(CANDIDATE):
        for _ in range(min(_MAX_WARMUP_RUNS, int((method.warmup_s - once) / once))):
            run()


def measure(
    run: Run,
    method: Method,
    device: Device,
    stop_above_us: float | None = None,
    before_sample: Callable[[], None] | None = None,
    behind: Callable[[], None] | None = None,
    meanwhile: Callable[[], None] | None = None,
) -> Timing:
    """Take samples of a run, and repeat that if they were throttled or drifted (as often as the device allows).

    After ``min_samples`` it stops at ``max_samples`` or ``budget_s``, or once both ends of the interval are within
    ``target_rel_ci`` of the median, or once its lower end is above ``stop_above_us``: the verdict will not change.

    Args:
        run: One call on fixed arguments, as the device prepared it; correctness is not checked here.
        method: The method.
        device: The device.
        stop_above_us: Median that is certain to lose.
        before_sample: Submitted before each sample, outside the timed part and before the cache is flushed.
        behind: Submitted after the last sample of each attempt, for the device to do while conditions are read. If
            samples are queued it is submitted with the first ones already, and again if more are taken.
        meanwhile: Work for the host while the device warms up. It takes longer than the warm-up, part of which is
            therefore repeated after it.

    Raises:
        ValueError: The device cannot time in the method's mode.
    """
    check_mode(method, device)
    load = device.watch_load()
    retaken = 0
    while True:
        warm_up(run, method, device)
        if meanwhile is not None:
            meanwhile()
            meanwhile = None
            warm_up(run, replace(method, warmup_s=_AGAIN_SHARE * method.warmup_s), device)
        before = device.conditions()
        samples, late = _samples(run, method, device, stop_above_us, before_sample, behind)
        after = device.conditions()
        doubts = why_doubtful(device, (before, after), samples)
        if not doubts or retaken == device.retakes:
            break
        retaken += 1
    conditions = joined(before, after) | flags(doubts, retaken, late) | dict(load())
    return Timing(tuple(samples), median_interval(samples), conditions)


def _samples(
    run: Run,
    method: Method,
    device: Device,
    stop_above_us: float | None,
    before_sample: Callable[[], None] | None,
    behind: Callable[[], None] | None,
) -> tuple[list[float], int]:
    """One attempt's samples, and how many more were dropped because the host was late."""
    # The first samples are mostly enough, and while the device works on them the host has time to submit it.
    first = behind if _is_queued(method, device) else None

    def get_ready() -> None:
        if before_sample is not None:
            before_sample()
        device.ready(method.mode, method.cold_cache)

    samples: list[float] = []
    late = 0
    deadline = time.perf_counter() + method.budget_s
    while True:
        count = max(1, method.min_samples - len(samples))
        followed, first = first, None
        for sample in _submitted(run, method, device, count, get_ready, followed):
            us = sample.us()
            if sample.late and late < method.max_samples:
                late += 1
            else:
                samples.append(us)
        if len(samples) >= method.min_samples and _is_enough(samples, method, deadline, stop_above_us):
            if behind is not None and followed is None:
                behind()
            return samples, late


def _submitted(
    run: Run,
    method: Method,
    device: Device,
    count: int,
    get_ready: Callable[[], None],
    behind: Callable[[], None] | None,
) -> Iterator[Sample]:
    """Some samples of one run, submitted ahead of the host.

    A graph needs nothing of the host, so all are queued at once, and ``behind`` after them. Otherwise the device
    prepares the next sample while the host handles this one, since the candidate's own launches must not run ahead.
    """
    if _is_queued(method, device):
        queued = []
        for _ in range(count):
            get_ready()
            queued.append(device.submit(run, method.mode))
        if behind is not None:
            behind()
        yield from queued
        return
    get_ready()
    for number in range(1, count + 1):
        sample = device.submit(run, method.mode)
        if number < count:
            get_ready()
        yield sample


def _is_queued(method: Method, device: Device) -> bool:
    """Whether samples are submitted all at once."""
    return device.runs_ahead and method.mode == "cuda_graph"


def _is_enough(samples: Sequence[float], method: Method, deadline: float, stop_above_us: float | None) -> bool:
    count = len(samples)
    if count >= method.max_samples or time.perf_counter() >= deadline:
        return True
    if not _is_due(count):
        return False
    interval = median_interval(samples)
    return interval.rel_half_width <= method.target_rel_ci or (
        stop_above_us is not None and interval.low > stop_above_us
    )


def check_mode(method: Method, device: Device) -> None:
    """Raise ValueError if the device cannot time in the method's mode."""
    if method.mode not in device.modes:
        raise ValueError(f"device {device.name} cannot time in mode {method.mode!r}; it can in {list(device.modes)}")


def why_doubtful(device: Device, readings: Sequence[Mapping[str, Any]], samples: Sequence[float]) -> tuple[str, ...]:
    """The reasons for doubt that apply, ``throttled`` and ``drifting``. A device without retakes does not drift."""
    found = []
    if any(device.is_throttled(reading) for reading in readings):
        found.append("throttled")
    if device.retakes and is_drifting(samples):
        found.append("drifting")
    return tuple(found)


def is_drifting(samples: Sequence[float]) -> bool:
    """Whether the medians of the first and the last half differ by more than 2 % and their intervals do not meet."""
    half = len(samples) // 2
    if len(samples) < _DRIFT_SAMPLES:
        return False
    first, last = median_interval(samples[:half]), median_interval(samples[-half:])
    apart = first.high < last.low or last.high < first.low
    return apart and abs(first.median - last.median) > _DRIFT_SHARE * min(first.median, last.median)


def flags(doubts: Sequence[str], retaken: int, late: int) -> dict[str, Any]:
    """The marks of doubtful samples for the record; empty if there were none."""
    found: dict[str, Any] = dict.fromkeys(doubts, True)
    if retaken:
        found["retaken"] = retaken
    if late:
        found["late"] = late
    return found


def _is_due(count: int) -> bool:
    """Whether to compute the interval now. Rarely: each time it may stop on a lucky streak, and costs time."""
    return count < 16 or count % 8 == 0


def joined(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Readings before and after, as one value where they agree."""
    found: dict[str, Any] = {}
    for key in {**before, **after}:
        first, last = before.get(key), after.get(key)
        found[key] = first if first == last else [first, last]
    return found
