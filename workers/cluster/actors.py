"""The Ray actor around an evaluator. It owns a sandbox; the actor itself never runs a candidate.

The runner gives it a few jobs, so that it never waits for one. When the actor or its machine dies, its fork server sees
the closed control socket and ends with everything below it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from workers.cluster.blob_transfer import Files, at_hand
from workers.cluster.builder_actor import Packed
from workers.devices.device_lock import device_lock
from workers.fib.dataset import Problem
from workers.fib.official_run import StockJob, StockRun, verify
from workers.judge.evaluator import VariantEvaluator
from workers.judge.judgement import Staged
from workers.records import (
    Comparison,
    ComparisonJob,
    Deadlines,
    Environment,
    Evaluation,
    EvaluationJob,
    Prepared,
)


class Line:
    """A queue of threads that take turns, first come, first served."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._tickets: deque[list[Staged | None]] = deque()

    @contextlib.contextmanager
    def turn(self, staged: Staged | None = None) -> Iterator[None]:
        """Wait for this thread's turn, which lasts as long as the context. The one before may load ``staged`` ahead."""
        ticket = [staged]
        with self._changed:
            self._tickets.append(ticket)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._tickets[0] is ticket)
        try:
            yield
        finally:
            with self._changed:
                self._tickets.popleft()
                self._changed.notify_all()

    def ahead(self) -> Staged | None:
        """What the next thread in the queue has staged."""
        with self._changed:
            return self._tickets[1][0] if len(self._tickets) > 1 else None


class EvaluatorActor:
    """Judges variants on one device, which it has for itself. Methods may be called by several threads: jobs queue with
    their artifacts in place, and the variant of the next job is loaded at the end of the present one.

    Args:
        problem: Definition and workloads.
        target: Of all variants.
        cache_dir: On the actor's machine.
        deadlines: For load, check and measure.
        files: The problem's blobs, for machines that do not have the dataset; None where all share one file system.
        imports: Modules that variants import.
        variables: The sweep's environment variables that decide how fast libraries compute. Ray sets some of them.
    """

    def __init__(
        self,
        problem: Problem,
        target: str,
        cache_dir: str,
        deadlines: Deadlines,
        files: Files | None = None,
        imports: tuple[str, ...] = (),
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._problem = problem if files is None else at_hand(problem, files, cache_dir)
        self._evaluator = VariantEvaluator(
            self._problem, target, cache_dir, deadlines, imports=imports, variables=variables
        )
        self._evaluator.start()
        self._line = Line()
        self._lock = device_lock(target, f"tuner on {problem.name}")

    def waiting_for(self) -> str | None:
        """Who has the device, if this evaluator waits for it."""
        return self._lock.waiting_for()

    def environment(self) -> Environment:
        """The environment of this evaluator."""
        return self._evaluator.environment()

    def warm(self) -> dict[str, Prepared]:
        """Make workloads resident before the first variant is built; uuid -> what they are like."""
        with self._line.turn(), self._lock.held():
            return self._evaluator.warm()

    def rates(self) -> Mapping[str, float]:
        """What the device does at most, see :meth:`workers.judge.evaluator.VariantEvaluator.rates`."""
        with self._line.turn(), self._lock.held():
            return self._evaluator.rates()

    def evaluate(self, job: EvaluationJob, packed: Packed) -> Evaluation:
        """Check and time a variant; see :meth:`workers.judge.evaluator.VariantEvaluator.evaluate`."""
        staged = self._evaluator.stage(job.variant, packed, next(iter(job.workloads), ""))
        with self._line.turn(staged), self._lock.held():
            return self._evaluator.evaluate(job, staged, self._line.ahead())

    def compare(self, job: ComparisonJob, *packed: Packed) -> Comparison:
        """See :meth:`workers.judge.evaluator.VariantEvaluator.compare`; ``packed`` goes with the job's variants."""
        given = {v.artifact: p for v, p in zip(job.variants, packed, strict=True) if p is not None}
        with self._line.turn(), self._lock.held():
            return self._evaluator.compare(job, given)

    def stock(self, job: StockJob) -> StockRun:
        """Run stock flashinfer-bench on this device; the process with the resident workloads ends to make room."""
        with self._line.turn(), self._lock.held():
            self._evaluator.release()
            return verify(self._problem, job)

    def processes(self) -> dict[str, int | None]:
        """Process IDs of the actor, its fork server and its child; waits for earlier jobs."""
        with self._line.turn():
            return {"actor": os.getpid(), **self._evaluator.processes()}

    def close(self) -> None:
        """End the sandbox."""
        with self._line.turn():
            self._evaluator.close()


def kill_quietly(actor: Any) -> None:
    """End a Ray actor that may be dead already."""
    import ray

    with contextlib.suppress(Exception):
        ray.kill(actor, no_restart=True)
