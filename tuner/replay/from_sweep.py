"""A recording of a finished sweep: ``tuner study record``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from db.store import Store
from search_spaces.parameters import Config, value_key
from search_spaces.space import SearchSpace
from tuner.errors import UsageError
from tuner.replay.recording import STATUS_OF, Recording
from tuner.settings import SweepSettings
from tuner.sweeps.setup import resolve, same_space, settings_of
from workers.records import Status


def record_sweep(store: Store, sweep_id: int, regime: str | None, given: SweepSettings) -> Recording:
    """What a sweep measured, with its space taken from the sweep's own settings.

    Args:
        store: Where the sweep is.
        sweep_id: Which sweep.
        regime: Name of the regime; may be None if there is only one.
        given: Settings of this machine: its database and dataset.

    Raises:
        UsageError: There is no such regime, none of its trials passed, or the space has changed since.
        StoreError: There is no such sweep.
    """
    sweep = store.sweeps.get(sweep_id)
    setup = resolve(settings_of(store, sweep_id, given))
    space = same_space(sweep, setup.space())
    known = list(dict.fromkeys(t.regime for t in store.trials.of(sweep_id, measurements=False)))
    if regime is None and len(known) == 1:
        regime = known[0]
    if regime not in known:
        raise UsageError(f"--regime must be one of {', '.join(known) or 'none: there is no trial'}; got {regime!r}")
    sizes = [s for r in setup.regimes(space.size_axis) if r.name == regime for s in r.sizes.values() if s is not None]
    return recording_of_sweep(store, sweep_id, space.at(sizes), regime, sweep.hardware)


def recording_of_sweep(store: Store, sweep_id: int, space: SearchSpace, regime: str, hardware: str) -> Recording:
    """What a sweep measured in one regime, for :func:`tuner.replay.recording.write_recording`.

    Args:
        store: Where the sweep is.
        sweep_id: Which sweep.
        space: The space that it searched there; its default is that of the regime.
        regime: Name of the regime; each has its own recording.
        hardware: Where it ran, for people.

    Raises:
        UsageError: No trial of that regime passed.
        StoreError: There is no such sweep.
    """
    trials, workloads = [], dict[str, None]()
    for record in store.trials.of(sweep_id):
        if record.regime == regime:
            median_us = {m.workload: m.median_us for m in record.measurements if m.median_us is not None}
            workloads.update(dict.fromkeys(median_us))
            trials.append(RecordedTrial(dict(record.config), Status(record.state), median_us))
    name = f"sweep_{sweep_id}_{regime}"
    return recording_of_trials(space, trials, name=name, hardware=hardware, workloads=tuple(workloads))


@dataclass(frozen=True)
class RecordedTrial:
    """A finished trial of a sweep, for :func:`recording_of_trials`.

    Args:
        config: What was tried.
        status: How the trial ended.
        median_us: Workload -> median latency in microseconds, of the workloads that ran.
    """

    config: Config
    status: Status
    median_us: Mapping[str, float] = field(default_factory=dict)


def recording_of_trials(
    space: SearchSpace, trials: Sequence[RecordedTrial], *, name: str, hardware: str, workloads: Sequence[str]
) -> Recording:
    """A recording of what a sweep measured: ``tuner study record``.

    The objective of a config is the geometric mean over the workloads. Only configs that were tried are valid in it.

    Raises:
        UsageError: No trial passed.
    """
    if not any(t.status is Status.PASSED for t in trials):
        raise UsageError(f"no trial of {name} passed, so there is nothing to replay")
    positions = [{value_key(v): i for i, v in enumerate(p.values)} for p in space.parameters]
    points: dict[tuple[int, ...], RecordedTrial] = {}
    for trial in trials:
        config = space.check(trial.config)
        codes = zip(space.parameters, positions, strict=True)
        points[tuple(known[value_key(config[p.name])] for p, known in codes)] = trial
    kept = list(points.values())
    default = [i for i, t in enumerate(kept) if space.check(t.config) == space.check(space.default)]
    per_workload = {w: tuple(t.median_us[w] / 1e3 if w in t.median_us else None for t in kept) for w in workloads}
    return Recording(
        name=name,
        kernel=space.name,
        gpu=hardware,
        parameters=space.parameters,
        restrictions=(),
        points=tuple(points),
        time_ms=tuple(_geomean_ms(t, workloads) for t in kept),
        status=tuple(_recorded_status(t.status) for t in kept),
        workloads=tuple(workloads),
        workload_ms=per_workload,
        default=default[0] if default else None,
    )


def _geomean_ms(trial: RecordedTrial, workloads: Sequence[str]) -> float | None:
    if trial.status is not Status.PASSED or any(w not in trial.median_us for w in workloads):
        return None
    return math.exp(sum(math.log(trial.median_us[w] / 1e3) for w in workloads) / len(workloads))


def _recorded_status(status: Status) -> str:
    known = {Status.INCORRECT_SHAPE: "incorrect", Status.INCORRECT_DTYPE: "incorrect"}
    return ({status: text for text, status in STATUS_OF.items()} | known).get(status, "runtime")
