"""Real workers behind a socket, shared by many short sweeps: ``python -m tests.chaos.host KIND ADDRESS ...``.

What a start-up of many seconds does for a long sweep, this process does for sweeps of two seconds: it builds, checks
and measures for real, in the product's killable processes, and outlives the sweep processes that are killed around it.
``bench`` is one builder and one evaluator without Ray, ``ray`` the product's RayRunner on a local cluster.
:class:`HostRunner` is the sweep's side of it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

from workers.build.builder import VariantBuilder
from workers.cluster import ray_runner
from workers.errors import ArtifactMissingError, WorkerError
from workers.fib.dataset import Dataset, Problem
from workers.judge.evaluator import VariantEvaluator
from workers.records import (
    BuildResult,
    Comparison,
    ComparisonJob,
    Deadlines,
    Environment,
    Evaluation,
    EvaluationJob,
    Variant,
)
from workers.runner import Outcome, Runner

DEADLINE_S = 6.0
"""For each phase of a candidate: what hangs costs a run that long."""
PATIENT_S = 60.0
"""The same with Ray, where nothing is planted that hangs: its start-up alone may take that long."""


class Bench(Runner):
    """One builder and one evaluator in turns; a job is done when it is waited for."""

    builders = evaluators = 1

    def __init__(self, problem: Problem, cache_dir: str) -> None:
        self._builder = VariantBuilder(problem.definition, "cpu", cache_dir, DEADLINE_S, preload=("torch",))
        self._evaluator = VariantEvaluator(problem, "cpu", cache_dir, Deadlines(DEADLINE_S, DEADLINE_S, DEADLINE_S))
        self._builder.start()
        self._evaluator.start()
        self._evaluator.warm()
        self._queue: deque[Any] = deque()

    def environment(self) -> Environment:
        """This machine."""
        return self._evaluator.environment()

    def rates(self) -> Mapping[str, float]:
        """This machine's."""
        return self._evaluator.rates()

    def submit_build(self, variant: Variant) -> None:
        """Queue."""
        self._queue.append(variant)

    def submit_evaluation(self, job: EvaluationJob) -> None:
        """Queue."""
        self._queue.append(job)

    def submit_comparison(self, job: ComparisonJob) -> None:
        """Queue."""
        self._queue.append(job)

    def wait(self, timeout_s: float) -> list[Outcome]:
        """The oldest job's outcome."""
        return [self._do(self._queue.popleft())] if self._queue else []

    def close(self) -> None:
        """End both."""
        self._builder.close()
        self._evaluator.close()

    def _do(self, job: Any) -> Outcome:
        if isinstance(job, Variant):
            return self._builder.build(job)
        judge: Any = self._evaluator.evaluate if isinstance(job, EvaluationJob) else self._evaluator.compare
        try:
            found: Outcome = judge(job)
        except ArtifactMissingError:  # as RayRunner does: built again, once
            for variant in [job.variant] if isinstance(job, EvaluationJob) else job.variants:
                self._builder.build(variant)
            found = judge(job)
        return found


class Host:
    """Serves one sweep process after the other, and counts that every job comes back exactly once."""

    def __init__(self, make: Callable[[], Runner]) -> None:
        self._make = make
        self._runner = make()
        self._runner.environment()
        self._open: Counter[tuple[str, str]] = Counter()
        self.violations: list[str] = []

    def serve(self, connection: Connection) -> None:
        """Answer one sweep process until it is gone."""
        while True:
            kind, payload = connection.recv()
            if kind == "submit":
                self._submit(payload)
                continue
            connection.send(self._answer(kind, payload))

    def drain(self, limit_s: float = 60.0) -> None:
        """Take what a killed sweep process has left behind."""
        give_up_at = time.monotonic() + limit_s
        while self._open.total() and time.monotonic() < give_up_at:
            self._answer("wait", 1.0)
        if self._open.total():
            self.violations.append(f"jobs that never came back: {dict(self._open)}")
            self._open.clear()

    def _answer(self, kind: str, payload: Any) -> Any:
        try:
            if kind == "environment":
                return self._runner.environment()
            if kind == "violations":
                found, self.violations = self.violations, []
                return found
            outcomes = self._runner.wait(payload)
        except WorkerError as error:
            # It ends the sweep process, and with it in real life the workers.
            self._open.clear()
            self._runner.close()
            self._runner = self._make()
            return error
        for outcome in outcomes:
            self._back(_name(outcome))
        return outcomes

    def _submit(self, job: Any) -> None:
        self._open[_name(job)] += 1
        if isinstance(job, Variant):
            self._runner.submit_build(job)
        elif isinstance(job, EvaluationJob):
            self._runner.submit_evaluation(job)
        else:
            self._runner.submit_comparison(job)

    def _back(self, name: tuple[str, str]) -> None:
        if not self._open[name]:
            self.violations.append(f"{name} came back once too often")
        self._open[name] -= 1


def _name(job: Any) -> tuple[str, str]:
    if isinstance(job, Variant | BuildResult):
        return "build", job.key
    if isinstance(job, EvaluationJob):
        return "evaluation", job.variant.key
    if isinstance(job, Evaluation):
        return "evaluation", job.key
    keys = [e.key for e in job.evaluations] if isinstance(job, Comparison) else [v.key for v in job.variants]
    return "comparison", " ".join(keys)


class HostRunner(Runner):
    """A host's workers, for the sweep process."""

    builders = evaluators = 1

    def __init__(self, address: str) -> None:
        self._connection = Client(address, family="AF_UNIX")

    def environment(self) -> Environment:
        """Where evaluations run."""
        found: Environment = self.ask("environment", None)
        return found

    def submit_build(self, variant: Variant) -> None:
        """Passed on."""
        self._connection.send(("submit", variant))

    def submit_evaluation(self, job: EvaluationJob) -> None:
        """Passed on."""
        self._connection.send(("submit", job))

    def submit_comparison(self, job: ComparisonJob) -> None:
        """Passed on."""
        self._connection.send(("submit", job))

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Outcomes that are ready."""
        found: list[Outcome] = self.ask("wait", timeout_s)
        return found

    def close(self) -> None:
        """Leave the host."""
        self._connection.close()

    def ask(self, kind: str, payload: Any) -> Any:
        """The host's answer.

        Raises:
            WorkerError: What the workers raised.
        """
        self._connection.send((kind, payload))
        answer = self._connection.recv()
        if isinstance(answer, WorkerError):
            raise answer
        return answer


def main(kind: str, address: str, dataset: str, definition: str, cache_dir: str) -> None:
    """Serve until stdin ends."""
    problem = Dataset(dataset).problem(definition)
    limits = Deadlines(PATIENT_S, PATIENT_S, PATIENT_S)

    def make() -> Runner:
        if kind == "bench":
            return Bench(problem, cache_dir)
        # A busy machine gives nothing at all to compilers that are as nice as a sweep's are.
        ray_runner._NICE["cpu"] = 0
        return ray_runner.RayRunner(problem, "cpu", deadlines=limits, builders=1, evaluators=1, cache_dir=cache_dir)

    threading.Thread(target=_end_with_parent, daemon=True).start()
    host = Host(make)
    with Listener(address, family="AF_UNIX") as listener:
        print("ready", flush=True)
        while True:
            # The sweep process may go at whatever point.
            with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError), listener.accept() as connection:
                host.serve(connection)
            host.drain()


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
