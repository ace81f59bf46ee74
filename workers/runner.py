"""The interface through which a sweep has variants built, judged and compared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar

from workers.errors import WorkerError
from workers.fib.official_run import StockJob, StockRun
from workers.records import (
    BuildResult,
    Comparison,
    ComparisonJob,
    Environment,
    Evaluation,
    EvaluationJob,
    Prepared,
    Variant,
)

Outcome = BuildResult | Evaluation | Comparison
OneOutcome = TypeVar("OneOutcome", BuildResult, Evaluation, Comparison)
Tick = Callable[[], None]
Arrived = Callable[[Outcome], None]


class Runner(ABC):
    """Builders and evaluators behind one queue.

    A runner is made for one definition, its workloads and one target, and is used by one thread. If a candidate fails
    (hang, crash, wrong answer), its job comes back as an outcome with a typed status; an exception means that the
    machinery cannot go on. Every submitted job comes back exactly once, unless it is withdrawn.
    """

    builders: int
    """Number of builds that can run at once."""
    evaluators: int
    """Number of evaluations that can run at once."""
    in_line: int = 1
    """Number of jobs that should wait, so that whoever has ended one has the next."""

    @abstractmethod
    def environment(self) -> Environment:
        """The environment in which evaluations run."""

    def workloads(self) -> Mapping[str, Prepared]:
        """What is known of each workload, by uuid; waits until they are made. Workloads may be missing."""
        return {}

    def rates(self) -> Mapping[str, float]:
        """What the device does at most, measured now, see :meth:`workers.devices.device.Device.rates`; empty where it
        is not measured. Nothing may be in flight."""
        return {}

    @abstractmethod
    def submit_build(self, variant: Variant) -> None:
        """Queue a build; its BuildResult has the variant's key."""

    @abstractmethod
    def submit_evaluation(self, job: EvaluationJob) -> None:
        """Queue a check and measurement; its Evaluation has the variant's key."""

    @abstractmethod
    def submit_comparison(self, job: ComparisonJob) -> None:
        """Queue an interleaved measurement; its result is one Comparison."""

    @abstractmethod
    def wait(self, timeout_s: float) -> list[Outcome]:
        """Outcomes that are ready, in order of completion; at least one unless ``timeout_s`` passes first."""

    def arrived(self) -> list[Outcome]:
        """Outcomes that are there already, for those who are busy with something else meanwhile; a runner may keep them
        for :meth:`wait`."""
        return []

    def withdraw(self, keys: Collection[str]) -> set[str]:
        """Take back builds and evaluations that no worker has begun.

        Returns:
            The keys of those that will not come back; all others will.
        """
        return set()

    def stock(self, job: StockJob) -> StockRun:
        """Have stock flashinfer-bench judge finished Solutions where evaluations run; nothing else may be in flight.

        Raises:
            WorkerError: This runner has no device that flashinfer-bench runs on.
        """
        raise WorkerError(f"{type(self).__name__} cannot run stock flashinfer-bench for {len(job.solutions)} Solutions")

    def built(
        self, variants: Iterable[Variant], tick: Tick = lambda: None, arrived: Arrived = lambda _: None
    ) -> dict[str, BuildResult]:
        """Build variants and wait for all of them; nothing else may be in flight.

        Args:
            variants: The variants.
            tick: Called about once a second.
            arrived: Called with each result as it arrives.

        Returns:
            Key of each variant -> its result.
        """
        waiting = {variant.key: variant for variant in variants}
        for variant in waiting.values():
            self.submit_build(variant)
        return {build.key: build for build in self._wait_for(BuildResult, len(waiting), tick, arrived)}

    def evaluated(self, job: EvaluationJob, tick: Tick = lambda: None) -> Evaluation:
        """Check and measure, and wait for the result; nothing else may be in flight."""
        self.submit_evaluation(job)
        return self._wait_for(Evaluation, 1, tick)[0]

    def compared(self, job: ComparisonJob, tick: Tick = lambda: None, others: Arrived | None = None) -> Comparison:
        """Measure interleaved, and wait for the result; what else is in flight is given to ``others``."""
        self.submit_comparison(job)
        return self._wait_for(Comparison, 1, tick, others=others)[0]

    def _wait_for(
        self,
        kind: type[OneOutcome],
        count: int,
        tick: Tick,
        arrived: Arrived = lambda _: None,
        others: Arrived | None = None,
    ) -> list[OneOutcome]:
        found: list[OneOutcome] = []
        while len(found) < count:
            for outcome in self.wait(1.0):
                if isinstance(outcome, kind):
                    found.append(outcome)
                    arrived(outcome)
                elif others is not None:
                    others(outcome)
                else:
                    raise WorkerError(f"waiting for a {kind.__name__}, something else was in flight: {outcome}")
            tick()
        return found

    @abstractmethod
    def close(self) -> None:
        """End all workers. Queued jobs do not come back."""
