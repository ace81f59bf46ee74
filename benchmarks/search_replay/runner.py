"""A runner that answers from a recording, so that the real sweep loop runs without the hardware. Tests use it too."""

from __future__ import annotations

import ast
import hashlib
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.search_replay.recording import STATUS_OF, Recording
from search_spaces.parameters import Config
from search_spaces.space import CONFIG_FILE, SearchSpace, SpaceFamily
from tuner.errors import UsageError
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


class ReplayRunner(Runner):
    """Looks every variant up in a recording; nothing is run and nothing waits.

    The config is read back from the variant's ``config.py``. A measurement repeats the recorded mean as its samples:
    recordings hold no single samples, and none are made up.

    Args:
        recording: What to answer from.
        in_flight: Trials that a sweep keeps in flight (a sweep asks for one more than builders plus evaluators).
    """

    def __init__(self, recording: Recording, in_flight: int = 1) -> None:
        self.recording = recording
        self.builders = (in_flight - 1) // 2
        self.evaluators = in_flight - 1 - self.builders
        self.judged: list[int] = []
        """Row of each finished evaluation or failed build, in order; comparisons are left out."""
        self.timings: list[int] = []
        """For each entry of ``judged``, the number of workloads that were timed."""
        self.raced: list[bool] = []
        """For each entry of ``judged``, whether it was raced out."""
        self._ready: deque[tuple[int | None, Outcome]] = deque()

    def environment(self) -> Environment:
        """The recorded hardware."""
        digest = hashlib.sha256(f"replay of {self.recording.name} on {self.recording.gpu}".encode()).hexdigest()[:16]
        return Environment(hardware=self.recording.gpu, target="cpu", fingerprint=digest)

    def submit_build(self, variant: Variant) -> None:
        """Answered at once: BUILT, or COMPILE_ERROR if that was recorded."""
        row = self._row(variant)
        if self.recording.status[row] == "compile":
            failed = BuildResult(variant.key, Status.COMPILE_ERROR, 0.0, log="recorded as a compile failure")
            self._ready.append((row, failed))
        else:
            self._ready.append((None, BuildResult(variant.key, Status.BUILT, 0.0, artifact=f"row-{row}")))

    def submit_evaluation(self, job: EvaluationJob) -> None:
        """Answered at once, from the recording."""
        row = self._row(job.variant)
        self._ready.append((row, self._evaluation(row, job.variant, job.workloads, job.method, job.stop_above_us)))

    def submit_comparison(self, job: ComparisonJob) -> None:
        """Answered at once, from the recording."""
        judged = (self._evaluation(self._row(v), v, job.workloads, job.method, {}, job.rounds) for v in job.variants)
        self._ready.append((None, Comparison(tuple(judged))))

    def wait(self, timeout_s: float) -> list[Outcome]:
        """One outcome at a time, so that the sweep tells each to the search before it asks for the next config."""
        if not self._ready:
            return []
        row, outcome = self._ready.popleft()
        if row is not None:
            self.judged.append(row)
            timed = outcome.measurements if isinstance(outcome, Evaluation) else ()
            self.timings.append(sum(m.median_us is not None for m in timed))
            self.raced.append(isinstance(outcome, Evaluation) and outcome.status is Status.RACED_OUT)
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
                status = STATUS_OF[self.recording.status[row]]
                failure = [] if status is Status.RACED_OUT else [Measurement(workload, status, method=method)]
                return Evaluation(variant.key, status, (*measured, *failure), environment=fingerprint)
            us = time_ms * 1e3
            measured.append(Measurement(workload, Status.PASSED, (us,) * samples, us, us, us, method=method))
            if us > stop_above_us.get(workload, float("inf")) and workload != workloads[-1]:
                return Evaluation(variant.key, Status.RACED_OUT, tuple(measured), environment=fingerprint)
        return Evaluation(variant.key, Status.PASSED, tuple(measured), environment=fingerprint)


def config_of(variant: Variant) -> Config:
    """The config that a variant was rendered from.

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
        """A recording answers for its own definition only."""
        if definition["name"] == self.name:
            return None
        return f"recording {self.name} holds runs of itself only, not of {definition['name']}"

    def space(self, definition: Mapping[str, Any], target: str) -> SearchSpace:
        """The recorded space; the target plays no role."""
        return self._recording.space()
