"""A runner that answers from a recording, so that the true sweep loop runs on a space that was measured before."""

from __future__ import annotations

import ast
import hashlib
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from search_spaces.space import CONFIG_FILE, Config, SearchSpace, SpaceFamily
from tuner.errors import UsageError
from tuner.recording import Recording
from workers.records import (
    BuildResult,
    Comparison,
    ComparisonJob,
    Environment,
    Evaluation,
    EvaluationJob,
    Measurement,
    Method,
    Status,
    Variant,
)
from workers.runner import Outcome, Runner

_STATUS = {
    "compile": Status.COMPILE_ERROR,
    "runtime": Status.RUNTIME_ERROR,
    "incorrect": Status.INCORRECT_NUMERICAL,
    "raced": Status.RACED_OUT,
}


class ReplayRunner(Runner):
    """Looks every variant up in a recording; nothing runs and nothing waits.

    The config is read back from the variant's ``config.py``. A measurement repeats the recorded mean as its samples:
    the spread between launches was recorded at best as one figure, and none is made up.

    Args:
        recording: What to answer from.
        in_flight: Trials that a sweep keeps in flight (a sweep asks for one more than builders plus evaluators).
    """

    def __init__(self, recording: Recording, in_flight: int = 1) -> None:
        self.recording = recording
        self.builders = (in_flight - 1) // 2
        self.evaluators = in_flight - 1 - self.builders
        self.judged: list[int] = []
        """Row of each finished look-up, in the order in which they ended; comparisons are not among them."""
        self._ready: deque[tuple[int | None, Outcome]] = deque()

    def environment(self) -> Environment:
        """The recorded hardware."""
        digest = hashlib.sha256(f"replay of {self.recording.name} on {self.recording.gpu}".encode()).hexdigest()[:16]
        return Environment(hardware=self.recording.gpu, target="cpu", fingerprint=digest)

    def submit_build(self, variant: Variant) -> None:
        """Ready at once: BUILT, or COMPILE_ERROR if that is what was recorded."""
        row = self._row(variant)
        if self.recording.status[row] == "compile":
            failed = BuildResult(variant.key, Status.COMPILE_ERROR, 0.0, log="recorded as a compile failure")
            self._ready.append((row, failed))
        else:
            self._ready.append((None, BuildResult(variant.key, Status.BUILT, 0.0, artifact=f"row-{row}")))

    def submit_evaluation(self, job: EvaluationJob) -> None:
        """Ready at once."""
        row = self._row(job.variant)
        self._ready.append((row, self._evaluation(row, job.variant, job.workloads, job.method, job.stop_above_us)))

    def submit_comparison(self, job: ComparisonJob) -> None:
        """Ready at once."""
        judged = (self._evaluation(self._row(v), v, job.workloads, job.method, {}, job.rounds) for v, _ in job.variants)
        self._ready.append((None, Comparison(tuple(judged))))

    def wait(self, timeout_s: float) -> list[Outcome]:
        """The oldest outcome alone, so that with several in flight each is told before the next config is asked for."""
        if not self._ready:
            return []
        row, outcome = self._ready.popleft()
        if row is not None:
            self.judged.append(row)
        return [outcome]

    def close(self) -> None:
        """Forget what is queued."""
        self._ready.clear()

    def _row(self, variant: Variant) -> int:
        row = self.recording.row(config_of(variant))
        if row is None:
            raise UsageError(f"variant {variant.key} is not in recording {self.recording.name}")
        return row

    def _evaluation(
        self,
        row: int,
        variant: Variant,
        workloads: Sequence[str],
        method: Method,
        stop_above_us: Mapping[str, float],
        samples: int = 1,
    ) -> Evaluation:
        fingerprint = self.environment().fingerprint
        times_ms = self.recording.times_ms(row)
        measured: list[Measurement] = []
        for workload in workloads:
            time_ms = times_ms[workload]
            if time_ms is None:
                status = _STATUS.get(self.recording.status[row], Status.RUNTIME_ERROR)
                failure = [] if status is Status.RACED_OUT else [Measurement(workload, status, method=method)]
                return Evaluation(variant.key, status, (*measured, *failure), environment=fingerprint)
            us = time_ms * 1e3
            measured.append(Measurement(workload, Status.PASSED, (us,) * samples, us, us, us, method=method))
            if us > stop_above_us.get(workload, float("inf")) and workload != workloads[-1]:
                return Evaluation(variant.key, Status.RACED_OUT, tuple(measured), environment=fingerprint)
        return Evaluation(variant.key, Status.PASSED, tuple(measured), environment=fingerprint)


def config_of(variant: Variant) -> Config:
    """The config that a variant of a single row was rendered from.

    Raises:
        UsageError: It has no generated ``config.py``.
    """
    for node in ast.parse(variant.sources.get(CONFIG_FILE, "")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "TABLE":
            table: list[tuple[int | None, Config]] = ast.literal_eval(node.value)
            return table[-1][1]
    raise UsageError(f"variant {variant.key} has no {CONFIG_FILE} with a TABLE, so it cannot be replayed")


class ReplayFamily(SpaceFamily):
    """The recorded space as a family, for the one definition that stands for the recording."""

    targets = ("cpu",)

    def __init__(self, recording: Recording) -> None:
        self.name = recording.name
        self._recording = recording

    @property
    def definition(self) -> dict[str, Any]:
        """A definition without inputs, named after the recording."""
        return {
            "name": self.name,
            "op_type": "replay",
            "axes": {},
            "inputs": {},
            "outputs": {},
            "reference": "",
        }

    def why_not(self, definition: Mapping[str, Any]) -> str | None:
        """Only its own definition can be looked up."""
        if definition["name"] == self.name:
            return None
        return f"recording {self.name} holds runs of itself only, not of {definition['name']}"

    def space(self, definition: Mapping[str, Any], target: str) -> SearchSpace:
        """The recorded space; the target plays no role."""
        return self._recording.space()


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
    positions = [{(type(v), v): i for i, v in enumerate(p.values)} for p in space.parameters]
    points: dict[tuple[int, ...], RecordedTrial] = {}
    for trial in trials:
        config = space.check(trial.config)
        codes = zip(space.parameters, positions, strict=True)
        points[tuple(known[(type(config[p.name]), config[p.name])] for p, known in codes)] = trial
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
    if status is Status.PASSED:
        return "ok"
    for text, known in _STATUS.items():
        if status is known:
            return text
    return "incorrect" if status.value.startswith("INCORRECT") else "runtime"
