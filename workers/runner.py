"""The one interface through which a sweep has variants built, judged and compared."""

from __future__ import annotations

from abc import ABC, abstractmethod

from workers.errors import WorkerError
from workers.fib.official_run import StockJob, StockRun
from workers.records import (
    BuildResult,
    Comparison,
    ComparisonJob,
    Environment,
    Evaluation,
    EvaluationJob,
    Variant,
)

Outcome = BuildResult | Evaluation | Comparison


class Runner(ABC):
    """Builders and evaluators behind one queue.

    A runner is bound to one definition, its workloads and one target when it is made. It is used by one thread. Jobs
    that a candidate spoils (hang, crash, wrong answer) come back as outcomes with a typed status; an exception means
    that the machinery itself cannot go on. Every submitted job comes back exactly once.
    """

    builders: int
    """Builds that can run at once."""
    evaluators: int
    """Evaluations that can run at once."""

    @abstractmethod
    def environment(self) -> Environment:
        """Where evaluations run."""

    @abstractmethod
    def submit_build(self, variant: Variant) -> None:
        """Queue a build; its BuildResult has the variant's key."""

    @abstractmethod
    def submit_evaluation(self, job: EvaluationJob) -> None:
        """Queue a check and measurement; its Evaluation has the variant's key."""

    @abstractmethod
    def submit_comparison(self, job: ComparisonJob) -> None:
        """Queue an interleaved measurement; ends in one Comparison."""

    @abstractmethod
    def wait(self, timeout_s: float) -> list[Outcome]:
        """Outcomes that are ready, at least one unless ``timeout_s`` passes first; in order of completion."""

    def stock(self, job: StockJob) -> StockRun:
        """Have stock flashinfer-bench judge finished Solutions where evaluations run; nothing else may be in flight.

        Raises:
            WorkerError: This runner has no device that flashinfer-bench runs on.
        """
        raise WorkerError(f"{type(self).__name__} cannot run stock flashinfer-bench for {len(job.solutions)} Solutions")

    @abstractmethod
    def close(self) -> None:
        """End all workers. What was queued does not come back."""
