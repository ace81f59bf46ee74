"""What the service tells of trials and Solutions: nothing about the machine, and no number that JSON does not have."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from db.records import FIGURES, ExportRecord, StoredMeasurement, TrialRecord
from tuner.results.documents import SolutionHead, TrialDetail, TrialRow
from tuner.results.status import moment

_FOLDERS = re.compile(r"(?<![\w.:/])/(?:[\w.+@~-]+/)+")


def finite(value: float | None) -> float | None:
    """The number, None for NaN and infinity, which JSON does not have."""
    return value if value is not None and math.isfinite(value) else None


def latency_us(objective: float | None) -> float | None:
    """The geometric mean latency; an objective is its logarithm."""
    return None if objective is None else math.exp(objective)


def trial_row(trial: TrialRecord) -> TrialRow:
    """A finished trial."""
    return TrialRow(**_row(trial))


def trial_detail(trial: TrialRecord) -> TrialDetail:
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
    return TrialDetail(**_row(trial), build=built, measurements=[measurement(m) for m in trial.measurements])


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


def solution_head(export: ExportRecord) -> SolutionHead:
    """An exported Solution, without the folder that it was written to."""
    return SolutionHead(
        id=export.id,
        name=export.solution,
        definition=export.definition,
        sweep_id=export.sweep_id,
        digest=export.digest,
        exported_at=moment(export.exported_at),
    )


def last_line(text: str) -> str:
    """The last line of a log, which usually says what went wrong, shortened."""
    lines = text.strip().splitlines()
    return without_paths(lines[-1].strip()[-300:]) if lines else ""


def without_paths(text: str) -> str:
    """A log without the folders of absolute paths, which say something about the machine and not the candidate."""
    return _FOLDERS.sub("", text)


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: (finite(v) if isinstance(v, float) else v) for k, v in values.items()}


def _row(trial: TrialRecord) -> dict[str, Any]:
    same = ("id", "number", "regime", "state", "config", "origin")
    return {
        **{name: getattr(trial, name) for name in same},
        "latency_us": latency_us(trial.objective),
        "reason": last_line(trial.reason),
        "started_at": moment(trial.started_at),
        "finished_at": moment(trial.finished_at),
    }
