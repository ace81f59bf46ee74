"""Whether a candidate is right, inside the killable process: before it is timed, and in what its timed runs left."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from workers.devices.device import CHECK, Device
from workers.judge import check
from workers.judge.check import Candidate, Verdict
from workers.judge.integrity import Integrity
from workers.judge.resident_workloads import Resident, Residents
from workers.judge.timed_run import TimedRun
from workers.records import Measurement, Method, Status
from workers.sandbox.child import describe
from workers.sandbox.process_state import ProcessState

T = TypeVar("T")


@dataclass(frozen=True)
class _Begun:
    """A check that was started ahead of its workload's turn, or what it failed with at once."""

    uuid: str
    errors: check.Errors | check.Known | BaseException


@dataclass(frozen=True)
class Verification:
    """What is being found out about the last timed run: its errors, and for each input whether it is unchanged."""

    errors: check.Errors | check.Known
    unchanged: list[Any]


class Verdicts:
    """Finds out on one device. Remembers what the evaluator is made of when it is made itself.

    Args:
        device: Where candidates run.
        definition: flashinfer-bench's.
        residents: Inputs and reference outputs.
        state: What the process is like while the evaluator looks.

    Attributes:
        load_again: Loads the present variant anew; None where that cannot be done.
    """

    def __init__(self, device: Device, definition: Any, residents: Residents, state: ProcessState) -> None:
        self._device = device
        self._definition = definition
        self._residents = residents
        self._state = state
        self._integrity = Integrity()
        self.load_again: Callable[[], None] | None = None
        self._begun: _Begun | None = None

    def forget(self) -> None:
        """Ends what belongs to the present variant."""
        self.load_again = self._begun = None

    def replaced(self) -> str | None:
        """The part of the evaluator that a candidate has replaced, None if all is well."""
        return self._integrity.replaced()

    def first_check(self, candidate: Candidate, resident: Resident) -> Verdict:
        """Right on poisoned outputs. The run that has to be right again is the last timed one; that inputs are
        untouched is looked at then, and now if something is wrong already."""
        try:
            verdict = self.with_room(resident.uuid, lambda: self._compare_once(candidate, resident))
            if verdict.status is Status.PASSED and resident.is_drawn:
                verdict = self.with_room(resident.uuid, lambda: self._look_at_draws(candidate, resident))
        except BaseException as error:
            verdict = Verdict(Status.RUNTIME_ERROR, say(error))
        if verdict.status is Status.PASSED or not self._device.is_healthy():
            # Digests cannot be read on a device that is gone, and the verdict then says why.
            return verdict
        return self._with_inputs(verdict, resident, check.unchanged(resident.inputs, resident.digests))

    def _compare_once(self, candidate: Candidate, resident: Resident) -> Verdict:
        begun, self._begun = self._begun, None
        if begun is None or begun.uuid != resident.uuid:
            return self._start_check(candidate, resident).verdict()
        if isinstance(begun.errors, BaseException):
            raise begun.errors
        return begun.errors.verdict()

    def _look_at_draws(self, candidate: Candidate, resident: Resident) -> Verdict:
        from workers.judge import sampling

        samples = sampling.draw(candidate, self._definition, resident.inputs, resident.truths, self._device)
        with self._state.evaluators(), self._device.span(CHECK):
            return sampling.verdict(samples, resident.truths)

    def _start_check(self, candidate: Candidate, resident: Resident) -> check.Errors | check.Known:
        outputs = check.run_once(candidate, self._definition, resident.inputs, self._device)
        with self._state.evaluators(), self._device.span(CHECK):
            return check.begin_compare(outputs, resident.truths)

    def check_ahead(self, candidate: Candidate, uuid: str) -> None:
        """Start the check on the following workload if that is in memory. What it fails with is kept for its turn: a
        candidate that raises once and not again has failed."""
        if self._begun is not None or uuid not in self._residents.held:
            return
        resident = self._residents.get(uuid)
        if resident.degenerate:
            return
        try:
            self._begun = _Begun(uuid, self._start_check(candidate, resident))
        except BaseException as error:
            self._begun = _Begun(uuid, error)

    def with_room(self, uuid: str, work: Callable[[], T]) -> T:
        """What the work gives; if memory ran out, once more without the other workloads, and with the variant loaded
        anew: a candidate may have all that its own workload leaves, and workspaces that it kept from others are not
        in its way."""
        try:
            return work()
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            has_room = self._residents.keep_only(uuid)
            if not has_room and self.load_again is None:
                raise
        self._begun = None
        if self.load_again is not None:
            self.load_again()
        gc.collect()
        self._device.release()
        return work()

    def begin(self, run: TimedRun, resident: Resident) -> Verification:
        """Start looking at what the timed runs left."""
        with self._state.evaluators(), self._device.span(CHECK):
            errors = check.begin_compare(run.outputs(), resident.truths)
            return Verification(errors, check.unchanged(resident.inputs, resident.digests))

    def finish(self, begun: Verification, resident: Resident) -> Verdict:
        """The last timed run was right; inputs and evaluator are untouched."""
        part = self._integrity.replaced()
        if part is not None:
            return Verdict(Status.RUNTIME_ERROR, f"the candidate replaced {part} in the evaluator's process")
        verdict = self._with_inputs(begun.errors.verdict(), resident, begun.unchanged)
        return verdict if verdict.status is Status.PASSED else _not_repeatable("the last timed run", verdict)

    def _with_inputs(self, verdict: Verdict, resident: Resident, unchanged: list[Any]) -> Verdict:
        """The verdict, unless the inputs are not what they were."""
        if check.all_true(unchanged):
            return verdict
        self._residents.drop(resident.uuid)
        return Verdict(Status.INPUTS_MODIFIED, "the candidate wrote to its inputs")


def failed(resident: Resident, verdict: Verdict, method: Method) -> Measurement:
    """The measurement of a candidate that is not right."""
    return Measurement(
        resident.uuid,
        verdict.status,
        conditions=resident.judged_by,
        message=verdict.message,
        method=method,
        **verdict.errors(),
    )


def say(error: BaseException) -> str:
    """The candidate's exception in a line, its traceback into the log."""
    traceback.print_exc()
    return describe(error)


def _not_repeatable(which: str, verdict: Verdict) -> Verdict:
    if verdict.status in (Status.RUNTIME_ERROR, Status.INPUTS_MODIFIED):
        return verdict
    message = f"right the first time; {which} gave {verdict.status.value}: {verdict.message}"
    return replace(verdict, status=Status.NOT_REPEATABLE, message=message)


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an exception, or one that it was made from, says so."""
    import torch

    seen = 0
    while error is not None and seen < 10:
        if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
            return True
        error, seen = error.__cause__ or error.__context__, seen + 1
    return False
