"""The verified run of a measurement: on other values at the same addresses, at a moment that cannot be predicted."""

from __future__ import annotations

import random
from typing import Any

from workers.devices.device import CANDIDATE, Device, Run
from workers.judge.outputs import check
from workers.judge.outputs.check import Verdict
from workers.judge.resident_workloads import Resident
from workers.judge.timing.timed_run import TimedRun
from workers.judge.verdicts import FINISHED_LATE, Verdicts, Verification
from workers.records import Method, Status


class VerifiedRun:
    """Accompanies the samples of one candidate on one workload.

    Before each sample it changes the inputs a little and poisons the outputs. One run, somewhere among the samples or
    after them, is not a sample: its inputs have other values, for which the answer is known. If there is no such
    answer, the inputs stay unchanged and the last sample is verified.

    Args:
        verdicts: Decides whether it is right.
        run: The candidate's call.
        prepared: The same call, as it is timed.
        resident: The workload.
        device: The device it runs on.
        method: The method of timing.
        is_known: Whether the candidate needs no verification, such as the reference.
    """

    def __init__(
        self,
        verdicts: Verdicts,
        run: TimedRun,
        prepared: Run,
        resident: Resident,
        device: Device,
        method: Method,
        is_known: bool = False,
    ) -> None:
        self._verdicts = verdicts
        self._run, self._prepared = run, prepared
        self._resident, self._others = resident, resident.others
        self._device = device
        self._method = method
        self._calls_candidate = method.mode != device.graph_mode
        self._samples = 0
        self._seen: list[Verification] = []
        self._asked: Any = None
        self._replaced: str | None = None
        self._was_due = False
        self._at = None if is_known or resident.others.alteration is None else _moment(method)

    def is_due(self) -> bool:
        """Whether the run on other values is to be taken now."""
        return self._at is not None and not self._was_due and self._samples >= self._at

    def before_sample(self) -> None:
        """Submit what precedes a sample: changed inputs, poisoned outputs."""
        self._samples += 1
        if self._at is not None:
            self._others.nudge()
        self._run.poison()

    def take(self) -> None:
        """Run on other values and start to check the result. Does not wait if the device works on its own."""
        self._was_due = True
        self._seen.append(self._on_other_values())

    def at_the_end(self) -> None:
        """After what may be the last sample: start the remaining checks and restore the inputs. If more samples follow,
        the run on other values is still to come at its moment, or at the end."""
        if self._calls_candidate or self._at is None:
            self.look()
        asked = self._verdicts.ask()
        self._asked = self._asked if asked is None else asked
        if self._at is None:
            self._seen.append(self._verdicts.begin(self._run, self._resident))
            return
        if not self._was_due:
            self._seen.append(self._on_other_values())
        self._others.undo()
        self._seen.append(self._verdicts.begin_inputs(self._resident))

    def look(self) -> None:
        """Look at the evaluator: after calls of the candidate and before anything that they may have replaced is used
        to verify it, since that could give itself back. A graph calls no candidate."""
        self._replaced = self._replaced or self._verdicts.replaced()

    def verdict(self) -> Verdict:
        """The verdict on the verified run; waits for it."""
        try:
            return self._verdicts.of_an_untouched_evaluator(self._verdict, self._asked, self._replaced)
        finally:
            self._others.undo()

    def _verdict(self) -> Verdict:
        # The inputs first: a candidate that writes to them is wrong on the changed ones.
        for seen in reversed(self._seen):
            verdict = self._verdicts.finish(seen, self._resident)
            if verdict.status is Status.NOT_REPEATABLE and self._at is not None:
                return self._explained(verdict)
            if verdict.status is not Status.PASSED:
                return verdict
        return verdict

    def _on_other_values(self) -> Verification:
        self.look()
        others = self._others
        others.undo()
        others.make_ready()
        self._device.ready(self._method.mode, self._method.cold_cache)
        # What does not wait for the stream of its call sees the usual values, or writes before outputs are poisoned.
        self._device.hold(self._method.mode)
        others.alter()
        self._run.poison()
        # No sample: as one it would be late, since so much was submitted after the spin, and lengthen the next spins.
        with self._device.span(CANDIDATE):
            self._prepared()
        if self._calls_candidate:
            self.look()
        seen = self._verdicts.begin_altered(self._run, self._resident)
        others.undo()
        return seen

    def _on_usual_values(self) -> Verification:
        self._others.undo()
        self._run.poison()
        self._prepared()
        return self._verdicts.begin(self._run, self._resident)

    def _is_right_when_waited_for(self) -> bool:
        """Whether the answer on other values is right where everything is done before the call, and time is given
        after it."""
        with self._others.altered():
            self._run.poison()
            self._device.synchronize()
            self._prepared()
            return self._verdicts.is_right_later(self._run.outputs(), self._resident.other_truths)

    def _explained(self, found: Verdict) -> Verdict:
        """The verdict on a wrong answer on other values, with its likely cause."""
        self._verdicts.wait_for_the_late()
        again = self._verdicts.finish(self._on_other_values(), self._resident)
        self._verdicts.wait_for_the_late()
        if again.status is Status.PASSED:
            return found
        if self._is_right_when_waited_for():
            return check.with_status(found, Status.UNFINISHED, FINISHED_LATE)
        usual = self._verdicts.finish(self._on_usual_values(), self._resident)
        if usual.status is not Status.PASSED:
            return found
        text = f"right on the values that it has seen, wrong on others at the same addresses: {found.message}"
        return check.with_status(found, Status.STALE_OUTPUT, text)


def _moment(method: Method) -> int:
    """Number of samples after which the run on other values is taken: soon, or late, or at the end."""
    rng = random.SystemRandom()
    return rng.randrange(method.min_samples) if rng.random() < 0.5 else rng.randrange(method.max_samples + 1)
