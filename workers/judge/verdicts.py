"""Decides inside the sandbox whether a candidate is right, before it is timed and from its timed runs."""

from __future__ import annotations

import gc
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from workers.devices.device import CHECK, Device
from workers.errors import TamperedError
from workers.judge.outputs import check, memory
from workers.judge.outputs.check import Candidate, Verdict
from workers.judge.outputs.expected import plain
from workers.judge.outputs.matching import figures
from workers.judge.outputs.truth import Truth
from workers.judge.resident_workloads import Resident, Residents
from workers.judge.tampering import watch
from workers.judge.timing.timed_run import TimedRun
from workers.records import Measurement, Method, Status
from workers.sandbox.child import log_traceback, raised
from workers.sandbox.messages import Phase, PhaseKind
from workers.sandbox.process_state import ProcessState

T = TypeVar("T")


_LATE_S = 0.05
"""Seconds after which missing outputs are checked once more, to tell late outputs from wrong ones."""

_TASKS = "/proc/self/task"
"""Has an entry for each thread of this process, native ones included."""

FINISHED_LATE = "its outputs were right only some time after the call had returned, or after other streams were done"


@dataclass(frozen=True)
class _Started:
    """The comparison of a first call's outputs."""

    errors: check.Errors | check.Known
    outputs: Sequence[Any]


@dataclass(frozen=True)
class _Begun:
    """A check that was started ahead of its workload's turn, or the exception with which it failed at once."""

    uuid: str
    started: _Started | BaseException


class AheadError(Exception):
    """The device has failed in a check ahead of its workload's turn; the cause says how."""

    def __init__(self, uuid: str) -> None:
        super().__init__(uuid)
        self.uuid = uuid


@dataclass(frozen=True)
class Verification:
    """Checks of a run that are under way: its errors, and for each input whether it is unchanged."""

    errors: check.Errors | check.Known
    unchanged: list[Any]
    which: str


_KNOWN_WRONG_SHARE = 0.25
"""Share of the later measurements of a variant at which outputs that are known to be wrong are compared too."""

_RIGHT = check.Known(Verdict(Status.PASSED))


class Verdicts:
    """Decides on one device. When it is made, it remembers the evaluator's functions.

    Args:
        device: The device that candidates run on.
        definition: flashinfer-bench's definition.
        residents: Inputs and reference outputs.
        state: The process's settings for the evaluator's own work.

    Attributes:
        load_again: Loads the present variant again; None if that is impossible.
        replaced: Gives the part of the evaluator that a candidate has replaced, None if there is none.
        made_in_turn: Whether a workload was made while a variant was loaded, which is exempt from collection since.
    """

    def __init__(self, device: Device, definition: Any, residents: Residents, state: ProcessState) -> None:
        self._device = device
        self._definition = definition
        self._residents = residents
        self._state = state
        self.replaced = watch()
        self._known_wrong = _KnownWrong(device.name)
        self._was_asked = False
        self._random = random.SystemRandom().random
        self._own_threads = _threads()
        self._frames, self._own_frames = sys._current_frames, len(sys._current_frames())
        self.load_again: Callable[[], None] | None = None
        self._begun: _Begun | None = None
        self.made_in_turn = False

    def count_threads(self) -> None:
        """Take the threads that run now for the evaluator's own: libraries start some at their first calls."""
        self._own_threads = _threads()

    def forget(self) -> None:
        """Drop everything that belongs to the present variant."""
        self.load_again = self._begun = None
        self._was_asked = False

    def resident(self, uuid: str) -> Resident:
        """The workload; if it is not in memory it is made now, under the evaluator's own settings, with all names.

        Raises:
            TamperedError: The candidate has replaced a part of the evaluator.
        """
        if uuid not in self._residents.held:
            if (part := self.replaced()) is not None:
                raise TamperedError(tampered(part))
            self._state.put_back_names()
            self.made_in_turn = True
        with self._state.evaluators():
            return self._residents.get(uuid)

    def first_check(self, candidate: Candidate, resident: Resident) -> Verdict:
        """Check a first run on poisoned outputs. A later run is checked again, and the inputs with it; if this check
        fails, the inputs are checked now."""
        try:
            verdict = self.with_room(resident.uuid, lambda: self._compare_once(candidate, resident))
            if verdict.status is Status.PASSED and resident.is_drawn:
                verdict = self.with_room(resident.uuid, lambda: self._look_at_draws(candidate, resident))
        except BaseException as error:
            verdict = failure(error)
        if verdict.status is Status.PASSED or not self._device.is_healthy():
            # Digests cannot be read on a broken device; the verdict then says why.
            return verdict
        return self._with_inputs(verdict, resident, resident.inputs_seal.holds(resident.inputs))

    def _compare_once(self, candidate: Candidate, resident: Resident) -> Verdict:
        begun, self._begun = self._begun, None
        if begun is None or begun.uuid != resident.uuid:
            started = self._start_check(candidate, resident)
        elif isinstance(begun.started, BaseException):
            raise begun.started
        else:
            started = begun.started
        verdict = started.errors.verdict()
        if verdict.status is Status.INCORRECT_NUMERICAL and self.is_right_later(started.outputs, resident.truths):
            return check.with_status(verdict, Status.UNFINISHED, FINISHED_LATE)
        return verdict

    def wait_for_the_late(self) -> None:
        """Wait for work that a candidate has started and not waited for: on the device, or in a thread."""
        self._device.synchronize()
        if not 0 < _threads() <= self._own_threads:
            time.sleep(_LATE_S)

    def is_right_later(self, outputs: Sequence[Any], truths: Sequence[Truth]) -> bool:
        """Whether outputs that were wrong when the call returned become right later."""
        self.wait_for_the_late()
        with self._state.evaluators():
            return self._compare(outputs, truths).verdict().status is Status.PASSED

    def _look_at_draws(self, candidate: Candidate, resident: Resident) -> Verdict:
        from workers.judge.outputs import sampling

        samples = sampling.draw(candidate, self._definition, resident.inputs, resident.truths, self._device)
        with self._state.evaluators(), self._device.span(CHECK):
            return sampling.verdict(samples, resident.truths)

    def _start_check(self, candidate: Candidate, resident: Resident) -> _Started:
        outputs = check.run_once(candidate, self._definition, resident.inputs, self._device)
        with self._state.evaluators(), self._device.span(CHECK):
            return _Started(self._compare(outputs, resident.truths), outputs)

    def check_ahead(
        self, candidate: Candidate, uuid: str, begin: Callable[[Phase], None], present: Phase
    ) -> Callable[[], None]:
        """Start the check on the following workload if it is in memory, while the device ends what the present one
        needs. An exception is kept for its turn, since a candidate that raises once has failed.

        Args:
            candidate: The candidate.
            uuid: The following workload.
            begin: Told whose turn it is: a candidate that hangs, or takes its process with it, does so on that one.
            present: The phase that this comes in between.

        Returns:
            What waits for both workloads, as the verdict on the present one would, and raises :class:`AheadError` if
            the device does not recover from the following one.
        """
        if self._begun is not None or uuid not in self._residents.held:
            return lambda: None
        resident = self._residents.get(uuid)
        if resident.degenerate:
            return lambda: None
        ahead, of_present = Phase(PhaseKind.CHECK, uuid), self._device.mark()
        begin(ahead)
        try:
            self._begun = _Begun(uuid, self._start_check(candidate, resident))
        except BaseException as error:
            self._begun = _Begun(uuid, error)

        def wait() -> None:
            begin(present)
            of_present()
            begin(ahead)
            try:
                self._device.mark()()
            except BaseException as error:
                raise AheadError(uuid) from error
            begin(present)

        return wait

    def with_room(self, uuid: str, work: Callable[[], T]) -> T:
        """Do the work. If memory runs out, do it again without the other workloads and with the variant loaded again: a
        candidate may use all memory that its own workload leaves, without workspaces kept from other workloads."""
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
        """Start to check the outputs of the last timed run."""
        with self._state.evaluators(), self._device.span(CHECK):
            errors = self._compare(run.outputs(), resident.truths)
            return Verification(errors, resident.inputs_seal.holds(resident.inputs), "the last timed run")

    def begin_altered(self, run: TimedRun, resident: Resident) -> Verification:
        """Start to check the outputs of a run on altered inputs."""
        with self._state.evaluators(), self._device.span(CHECK):
            return Verification(self._compare(run.outputs(), resident.other_truths), [], "a run on other values")

    def begin_inputs(self, resident: Resident) -> Verification:
        """Start to check that the inputs are unchanged."""
        with self._state.evaluators(), self._device.span(CHECK):
            return Verification(_RIGHT, resident.inputs_seal.holds(resident.inputs), "")

    def _compare(self, outputs: Sequence[Any], truths: Sequence[Truth]) -> check.Errors | check.Known:
        """Start to compare the outputs, if there are any."""
        import torch

        for output, truth in zip(outputs, truths, strict=True):
            if type(output) not in (torch.Tensor, torch.nn.Parameter):
                kind = type(output).__name__
                text = f"output {truth.rule.output} is a {kind}, no plain tensor: it may be computed when looked at"
                return check.Known(Verdict(Status.UNFINISHED, text))
        return check.begin_compare(outputs, truths)

    def finish(self, begun: Verification, resident: Resident) -> Verdict:
        """The verdict: right outputs, unchanged inputs, or what is wrong."""
        verdict = self._with_inputs(begun.errors.verdict(), resident, begun.unchanged)
        return verdict if verdict.status is Status.PASSED else _not_repeatable(begun.which, verdict)

    def ask(self) -> Any:
        """Start to compare outputs that are known to be wrong: at the first measurement of a variant, and at some of
        the others. What :meth:`of_an_untouched_evaluator` takes, None at the rest."""
        asks, self._was_asked = not self._was_asked or self._random() < _KNOWN_WRONG_SHARE, True
        if not asks:
            return None
        with self._state.evaluators():
            return self._known_wrong.figures()

    def of_an_untouched_evaluator(self, verdict: Callable[[], Verdict], asked: Any, part: str | None) -> Verdict:
        """The verdict, unless the evaluator was replaced, or wrong numbers would pass as well: operators of torch can
        be replaced below Python.

        Args:
            verdict: Gives it.
            asked: What :meth:`ask` gave.
            part: What was replaced when the candidate had made its last call. Only its threads can do so later.
        """
        if part is None and len(self._frames()) > self._own_frames:
            part = self.replaced()
        if part is not None:
            return Verdict(Status.TAMPERED, tampered(part))
        found = verdict()
        if asked is not None and found.status is Status.PASSED and self._known_wrong.would_pass(asked):
            return Verdict(Status.TAMPERED, tampered("operators of torch, so that wrong numbers would pass"))
        return found

    def _with_inputs(self, verdict: Verdict, resident: Resident, unchanged: list[Any]) -> Verdict:
        """The verdict, or that the inputs have changed."""
        if memory.all_true(unchanged):
            return verdict
        self._residents.drop(resident.uuid)
        return Verdict(Status.INPUTS_MODIFIED, "the candidate wrote to its inputs")


class _KnownWrong:
    """Outputs that are known to be wrong: if a comparison accepts them, it says nothing of others."""

    def __init__(self, device: str) -> None:
        import torch

        right = [torch.arange(1, 65, device=device, dtype=dtype) for dtype in (torch.float32, torch.int32)]
        self._truths = plain(right)
        self._wrong = [-value for value in right]

    def figures(self) -> Any:
        """What a comparison finds in them. Does not wait for the device."""
        return figures(self._wrong, self._truths)

    @staticmethod
    def would_pass(found: Any) -> bool:
        """Whether a comparison accepts one of them; waits for the device."""
        return not all(wrong for _, wrong, *_ in found.tolist())


def _threads() -> int:
    """Threads of this process, 0 if the system does not tell."""
    try:
        return len(os.listdir(_TASKS))
    except OSError:
        return 0


def failed(resident: Resident, verdict: Verdict, method: Method) -> Measurement:
    """The measurement of a candidate that is wrong."""
    return Measurement(
        resident.uuid,
        verdict.status,
        conditions=resident.judged_by,
        message=verdict.message,
        method=method,
        **verdict.errors(),
    )


def tampered(part: str) -> str:
    """The verdict on a candidate that replaced a function of the evaluator."""
    return f"the candidate replaced {part} in the evaluator's process"


_NO_SUCH_FUNCTION = "CUDA Error Code: 98"
_SAME_NAMES = (
    " (if its library is loaded by cutlass.cute.runtime.load_module: names of libraries that were loaded before come "
    "first there; link it with -Wl,-Bsymbolic)"
)
"""The DSL loads libraries for good and for all: a second one with a function of the same name has its kernels looked up
in the first, and its own are never loaded."""


def failure(error: BaseException, when: str = "") -> Verdict:
    """The verdict on a candidate that raised; its traceback goes to the log."""
    log_traceback()
    told = raised(error)
    if told.status is Status.SKIPPED:
        return Verdict(Status.SKIPPED, str(told))
    cure = _SAME_NAMES if _NO_SUCH_FUNCTION in str(told) else ""
    return Verdict(Status.RUNTIME_ERROR, f"{when}{told}{cure}")


def _not_repeatable(which: str, verdict: Verdict) -> Verdict:
    if verdict.status in (Status.RUNTIME_ERROR, Status.INPUTS_MODIFIED, Status.UNFINISHED, Status.TAMPERED):
        return verdict
    message = f"right the first time; {which} gave {verdict.status.value}: {verdict.message}"
    return replace(verdict, status=Status.NOT_REPEATABLE, message=message)


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an exception, or one of its causes, means that memory ran out."""
    import torch

    seen = 0
    while error is not None and seen < 10:
        if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
            return True
        error, seen = error.__cause__ or error.__context__, seen + 1
    return False
