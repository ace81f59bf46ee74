"""How long the definition's reference takes on each workload, for the speed-up that tables and reports show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from search_spaces.targets import is_cuda, target_named
from tuner.sweeps.trials.modes import EAGER
from workers.records import BuildResult, Evaluation, EvaluationJob, Measurement, Method, Status, Variant
from workers.runner import Runner

REFERENCE_KEY = "reference"
SAMPLES = 3


class ReferenceTimes:
    """Has the reference built and timed beside the candidates."""

    def __init__(
        self,
        runner: Runner,
        reference: Variant,
        workloads: Sequence[str],
        method: Method,
        is_wanted: bool,
        is_building: bool = False,
    ) -> None:
        self._runner = runner
        self._variant = reference
        self._workloads = tuple(workloads)
        # It waits for the device while it runs, so it cannot be captured as a graph.
        modes = target_named(reference.target).modes
        mode = EAGER if EAGER in modes else method.mode
        self._method = replace(method, mode=mode, min_samples=SAMPLES, max_samples=SAMPLES, budget_s=0.0)
        self._job: EvaluationJob | None = None
        self._is_building = is_building
        self.waiting = is_wanted
        """Whether it is still to be timed."""
        self.measured: dict[str, Measurement] = {}
        """Workload -> its figures."""

    def start(self) -> None:
        """Have it built, if it is to be timed at all and no head start has had it built."""
        if self.waiting and not self._is_building:
            self._runner.submit_build(self._variant)

    def withdraw(self) -> None:
        """Do without it where no worker has begun with it."""
        if self.waiting and self._runner.withdraw({REFERENCE_KEY}):
            self.waiting = False

    def took(self, outcome: BuildResult | Evaluation) -> bool:
        """Take what is the reference's; False for what is not."""
        if outcome.key != REFERENCE_KEY:
            return False
        if isinstance(outcome, Evaluation):
            self.waiting = False
            self.measured |= {m.workload: m for m in outcome.measurements if m.status is Status.PASSED}
        elif outcome.artifact is None:
            self.waiting = False
        else:
            built = self._variant.built(outcome.artifact)
            self._job = EvaluationJob(built, self._workloads, self._method, check=False)
            self._runner.submit_evaluation(self._job)
        return True

    def again(self, tick: Callable[[], None]) -> None:
        """Time it once more when nothing is built any more, on a CPU alone.

        There builders take cores from it, and its threads wait for one another: it has been seen to take twenty times
        as long as by itself. On a GPU what it takes is the device's.

        Args:
            tick: Called about once a second.
        """
        if self._job is not None and not is_cuda(self._variant.target):
            self.took(self._runner.evaluated(self._job, tick))
