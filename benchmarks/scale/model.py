"""Workers that are modelled: a simulated clock, durations and latencies from a formula. Nothing here was measured."""

from __future__ import annotations

import hashlib
import heapq
import math
import struct
import time
from collections import deque
from collections.abc import Mapping

from benchmarks.search_replay.runner import config_of
from search_spaces import Config, SearchSpace
from workers.records import (
    BuildResult,
    Comparison,
    ComparisonJob,
    Environment,
    Evaluation,
    EvaluationJob,
    Measurement,
    Status,
    Variant,
)
from workers.runner import Outcome, Runner

BUILD_S = 1.5
EVALUATION_S = 0.35
"""Modelled seconds of one build, and of one workload's check and measurement."""

FAILURES = ((0.03, Status.COMPILE_ERROR), (0.06, Status.INCORRECT_NUMERICAL))
"""Modelled shares, cumulative."""

ENVIRONMENT = Environment(
    hardware="modelled GPU",
    target="sm_90a",
    compute_capability="9.0",
    units=132,
    versions={"torch": "2.13.0", "nvidia-cutlass-dsl": "4.8.1"},
    fingerprint="modelled",
)


class Landscape:
    """Latency of every config of a space on every workload: a product of one factor per parameter, with ripples.

    Args:
        space: Whose configs are judged.
        samples: Of each measurement.
    """

    def __init__(self, space: SearchSpace, samples: int) -> None:
        self._space = space
        self._samples = samples
        self._best = {p.name: _number(p.name) % len(p.values) for p in space.parameters}
        self._positions = {p.name: {(type(v), v): i for i, v in enumerate(p.values)} for p in space.parameters}

    def status(self, config: Config) -> Status:
        """PASSED, or the failure that is planted in this config."""
        share = _share(f"status {self._space.config_hash(config)}")
        return next((s for limit, s in FAILURES if share < limit), Status.PASSED)

    def median_us(self, config: Config, workload: str) -> float:
        """Between 20 us and some milliseconds."""
        distance = sum(0.12 * abs(self._positions[n][(type(v), v)] - self._best[n]) for n, v in config.items())
        ripple = 0.1 * _share(f"{self._space.config_hash(config)} {workload}")
        return 20.0 * (1 + _number(workload) % 40) * math.exp(distance / 4 + ripple)

    def measurement(self, config: Config, job: EvaluationJob | ComparisonJob, workload: str, seed: str) -> Measurement:
        """Samples around the median, one in a hundred apart."""
        median = self.median_us(config, workload)
        digest = hashlib.blake2b(f"{seed} {workload}".encode(), digest_size=64).digest()
        count = job.rounds if isinstance(job, ComparisonJob) else self._samples
        samples = tuple(median * (1 + (digest[i % 64] - 128) / 12800) for i in range(count))
        return Measurement(workload, Status.PASSED, samples, median, 0.995 * median, 1.005 * median, method=job.method)


class ModelledRunner(Runner):
    """Builders and evaluators on a simulated clock: :meth:`wait` jumps to the next completion.

    Args:
        space: Whose variants come.
        evaluators: How many there are; as many builders.
        samples: Of each measurement.
    """

    def __init__(self, space: SearchSpace, evaluators: int, samples: int = 60) -> None:
        self.builders = self.evaluators = evaluators
        self.now_s = 0.0
        self.cpu_s = 0.0
        """CPU seconds spent here, which are the model's and not the sweep's."""
        self._landscape = Landscape(space, samples)
        self._free = {"build": evaluators, "evaluate": evaluators}
        self._queues: dict[str, deque[tuple[float, Outcome]]] = {"build": deque(), "evaluate": deque()}
        self._running: list[tuple[float, int, str, Outcome]] = []
        self._number = 0

    def environment(self) -> Environment:
        """Modelled hardware."""
        return ENVIRONMENT

    def submit_build(self, variant: Variant) -> None:
        """Takes about :data:`BUILD_S`."""
        began = time.thread_time()
        failed = self._landscape.status(config_of(variant)) is Status.COMPILE_ERROR
        log = "modelled compiler output\n" * 20
        result = (
            BuildResult(variant.key, Status.COMPILE_ERROR, BUILD_S, log=log)
            if failed
            else BuildResult(variant.key, Status.BUILT, BUILD_S, f"artifact-{variant.key}", {"registers": 168}, log)
        )
        self._put("build", BUILD_S * (0.5 + _share(variant.key)), result)
        self.cpu_s += time.thread_time() - began

    def submit_evaluation(self, job: EvaluationJob) -> None:
        """Takes about :data:`EVALUATION_S` for each workload that runs."""
        began = time.thread_time()
        outcome = self._evaluation(job)
        ran = max(1, len(outcome.measurements))
        self._put("evaluate", EVALUATION_S * ran * (0.8 + 0.4 * _share(f"t {job.variant.key}")), outcome)
        self.cpu_s += time.thread_time() - began

    def submit_comparison(self, job: ComparisonJob) -> None:
        """Takes as long as the evaluations would."""
        began = time.thread_time()
        judged = tuple(
            Evaluation(
                v.key,
                Status.PASSED,
                tuple(self._landscape.measurement(config_of(v), job, w, f"{v.key} {job.seed}") for w in job.workloads),
                environment=ENVIRONMENT.fingerprint,
            )
            for v in job.variants
        )
        self._put("evaluate", EVALUATION_S * len(judged) * len(job.workloads), Comparison(judged))
        self.cpu_s += time.thread_time() - began

    def wait(self, timeout_s: float) -> list[Outcome]:
        """The next outcome; with many workers those that end within the same tenth of a simulated second."""
        began = time.thread_time()
        ready: list[Outcome] = []
        until = self._running[0][0] + 0.1 if self._running else 0.0
        while self._running and self._running[0][0] <= until:
            at, _, kind, outcome = heapq.heappop(self._running)
            self.now_s = max(self.now_s, at)
            self._free[kind] += 1
            self._start(kind)
            ready.append(outcome)
        self.cpu_s += time.thread_time() - began
        return ready

    def close(self) -> None:
        """Nothing to end."""

    def _put(self, kind: str, duration_s: float, outcome: Outcome) -> None:
        self._queues[kind].append((duration_s, outcome))
        self._start(kind)

    def _start(self, kind: str) -> None:
        while self._free[kind] and self._queues[kind]:
            duration_s, outcome = self._queues[kind].popleft()
            self._free[kind] -= 1
            self._number += 1
            heapq.heappush(self._running, (self.now_s + duration_s, self._number, kind, outcome))

    def _evaluation(self, job: EvaluationJob) -> Evaluation:
        return evaluation(self._landscape, job)


def evaluation(landscape: Landscape, job: EvaluationJob) -> Evaluation:
    """What an evaluator would say by the model."""
    config, key = config_of(job.variant), job.variant.key
    status = landscape.status(config)
    if status is not Status.PASSED:
        failed = Measurement(job.workloads[0], status, message="modelled failure", method=job.method)
        return Evaluation(key, status, (failed,), environment=ENVIRONMENT.fingerprint)
    measured: list[Measurement] = []
    limits: Mapping[str, float] = job.stop_above_us
    for workload in job.workloads:
        measured.append(landscape.measurement(config, job, workload, key))
        median = measured[-1].median_us
        assert median is not None
        if median > limits.get(workload, math.inf) and workload != job.workloads[-1]:
            return Evaluation(key, Status.RACED_OUT, tuple(measured), environment=ENVIRONMENT.fingerprint)
    return Evaluation(key, Status.PASSED, tuple(measured), environment=ENVIRONMENT.fingerprint)


def _number(text: str) -> int:
    return int(struct.unpack("<Q", hashlib.blake2b(text.encode(), digest_size=8).digest())[0])


def _share(text: str) -> float:
    return _number(text) / 2**64
