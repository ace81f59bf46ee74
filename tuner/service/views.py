"""Turns the store's records into the documents of :mod:`tuner.service.models`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from db.records import FIGURES, ExportRecord, StoredMeasurement, SweepRecord, SweepState, TrialRecord
from db.store import Store
from tuner.results.status import moment, state_now

_FOLDERS = re.compile(r"(?<![\w.:/])/(?:[\w.+@~-]+/)+")


def finite(value: float | None) -> float | None:
    """The number, None for NaN and infinity, which JSON does not have."""
    return value if value is not None and math.isfinite(value) else None


def latency_us(objective: float | None) -> float | None:
    """The geometric mean latency; an objective is its logarithm."""
    return None if objective is None else math.exp(objective)


def head(sweep: SweepRecord, trials: int) -> dict[str, Any]:
    """A sweep as in a list."""
    return {
        "id": sweep.id,
        "state": str(state_now(sweep)),
        "definition": sweep.definition,
        "space": sweep.space,
        "target": sweep.target,
        "hardware": sweep.hardware,
        "started_at": moment(sweep.started_at),
        "finished_at": moment(sweep.finished_at),
        "trials": trials,
        "max_trials": sweep.max_trials,
        "budget_s": sweep.budget_s,
    }


def heads(store: Store, sweeps: Sequence[SweepRecord]) -> list[dict[str, Any]]:
    """Several sweeps; their trials are counted in one query."""
    counts = store.trials.counts([s.id for s in sweeps])
    return [head(s, sum(counts[s.id].values())) for s in sweeps]


def sweep_head(store: Store, sweep_id: int) -> dict[str, Any]:
    """One sweep by ID.

    Raises:
        NoSuchSweep: There is none.
    """
    return heads(store, [store.sweeps.get(sweep_id)])[0]


def sweep_detail(store: Store, sweep_id: int) -> dict[str, Any]:
    """A sweep with its outcome so far.

    Raises:
        NoSuchSweep: There is none.
    """
    sweep = store.sweeps.get(sweep_id)
    by_state = dict(store.trials.counts([sweep_id])[sweep_id])
    state = state_now(sweep)
    return {
        **head(sweep, sum(by_state.values())),
        "seed": sweep.seed,
        "stop_requested": sweep.stop_requested_at is not None,
        "resumable": state not in (SweepState.RUNNING, SweepState.DONE),
        "trials_by_state": by_state,
        "winners": [asdict(w) for w in store.winners.of(sweep_id)],
    }


def trial_row(trial: TrialRecord) -> dict[str, Any]:
    """A finished trial."""
    return {
        "id": trial.id,
        "number": trial.number,
        "regime": trial.regime,
        "state": trial.state,
        "latency_us": latency_us(trial.objective),
        "config": dict(trial.config),
        "origin": trial.origin,
        "reason": last_line(trial.reason),
        "started_at": moment(trial.started_at),
        "finished_at": moment(trial.finished_at),
    }


def trial_detail(trial: TrialRecord) -> dict[str, Any]:
    """A trial with its build and its measurements."""
    build = trial.build
    built = None
    if build is not None:
        built = {
            "toolchain": build.toolchain,
            "status": build.status,
            "build_s": build.build_s,
            "figures": _numbers(build.figures),
        }
    return {**trial_row(trial), "build": built, "measurements": [measurement(m) for m in trial.measurements]}


def measurement(m: StoredMeasurement) -> dict[str, Any]:
    """A measurement with its samples."""
    return {
        "workload": m.workload,
        "profile": m.profile,
        "status": m.status,
        **{name: finite(getattr(m, name)) for name in FIGURES},
        "samples_us": [s for s in m.samples_us if math.isfinite(s)],
        "conditions": _numbers(m.conditions),
        "measured_at": moment(m.measured_at),
    }


def solution_head(export: ExportRecord) -> dict[str, Any]:
    """An exported Solution, without the folder that it was written to."""
    return {
        "id": export.id,
        "name": export.solution,
        "definition": export.definition,
        "sweep_id": export.sweep_id,
        "digest": export.digest,
        "exported_at": moment(export.exported_at),
    }


def last_line(text: str) -> str:
    """The last line of a log, which usually says what went wrong, shortened."""
    lines = text.strip().splitlines()
    return without_paths(lines[-1].strip()[-300:]) if lines else ""


def without_paths(text: str) -> str:
    """A log without the folders of absolute paths, which say something about the machine and not the candidate."""
    return _FOLDERS.sub("", text)


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: (finite(v) if isinstance(v, float) else v) for k, v in values.items()}
