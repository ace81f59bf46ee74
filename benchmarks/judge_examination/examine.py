"""One definition in the examination: what the judge says of its reference and of each planted mistake."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.judge_examination.mistakes import OF_CANDIDATE, OF_OUTPUT
from workers.devices.cpu import HostDevice
from workers.devices.device import Device
from workers.fib import adapter as fib
from workers.fib.dataset import Problem
from workers.judge.outputs import memory
from workers.judge.outputs.check import Candidate, Verdict
from workers.judge.outputs.rules import Kind
from workers.judge.references import ReferenceStore
from workers.judge.resident_workloads import Resident, Residents
from workers.judge.timing.timed_run import TimedRun
from workers.judge.verdicts import Verdicts
from workers.judge.verified_run import VerifiedRun
from workers.records import Method, Status
from workers.sandbox.process_state import ProcessState

RIGHT = ("none: the reference itself", "none: rounded otherwise, in another order")
"""Candidates that are right; refusing one is a wrong refusal."""

Outputs = list[Any]


@dataclass(frozen=True)
class Found:
    """What the judge said of one candidate. ``caught``: it was refused."""

    definition: str
    output: str
    mistake: str
    verdict: str
    caught: bool
    device: str
    message: str = ""

    def document(self) -> dict[str, Any]:
        """For judge.json."""
        return asdict(self)


class Examination:
    """The judge with one definition's workloads in memory, as an evaluator's process has it.

    Args:
        problem: Definition and workloads.
        device: ``cpu`` or ``cuda``.
        scratch: Folder for reference outputs.
    """

    def __init__(self, problem: Problem, device: str, scratch: Path) -> None:
        self._problem = problem
        self._device = _open(device)
        self._definition = fib.definition_model(problem.definition)
        store = ReferenceStore(scratch, problem, self._device.model)
        self._residents = Residents(problem, self._device, store, 1 << 40)
        self._verdicts = Verdicts(self._device, self._definition, self._residents, ProcessState(cuda=device != "cpu"))
        self._now = ""
        self.uuids = [str(w["uuid"]) for w in problem.workloads]
        held = [self._resident(uuid) for uuid in self.uuids]
        self.unjudgeable = [r.degenerate for r in held if r.degenerate]
        self.uuids = [r.uuid for r in held if not r.degenerate]
        self._right = {r.uuid: [t.value.clone() for t in r.truths] for r in held}
        self._draws = any(r.is_drawn for r in held)
        self._altered: dict[str, tuple[list[Any], Outputs]] = {}
        for resident in held:
            if resident.others.alteration is not None:
                with resident.others.altered():
                    digests = [memory.digest(x) for x in resident.inputs]
                self._altered[resident.uuid] = digests, [t.value.clone() for t in resident.other_truths]

    def all(self) -> Iterator[Found]:
        """Every candidate's verdict, right ones first. A mistake that changes nothing is left out."""
        if not self.uuids:
            return
        yield self._found("", RIGHT[0], Candidate(self._reference, False, is_reference=True))
        if not self._draws:
            yield self._found("", RIGHT[1], self._returning(self._rounded_otherwise))
        names = list(self._definition.outputs)
        for index, name in enumerate(names):
            for mistake in OF_OUTPUT:
                change = self._in_output(index, mistake)
                if self._draws and not self._applies(index, mistake):
                    continue
                if self._draws or self._changes(change):
                    yield self._found(name, mistake, self._returning(change))
        for mistake in OF_CANDIDATE:
            candidate = self._mistaken(mistake)
            if candidate is not None:
                yield self._found("", mistake, candidate)

    def judge(self, candidate: Candidate) -> Verdict:
        """On each workload: right on poisoned outputs, right in timed runs on other values, inputs untouched."""
        for uuid in self.uuids:
            self._now = uuid
            resident = self._resident(uuid)
            candidate.writes = candidate.is_reference and bool(resident.wrote)
            verdict = self._verdicts.first_check(candidate, resident)
            if verdict.status is Status.PASSED:
                verdict = self._timed(candidate, resident)
            if verdict.status is not Status.PASSED:
                return verdict
        return Verdict(Status.PASSED)

    def _timed(self, candidate: Candidate, resident: Resident) -> Verdict:
        """Two samples, and the run on other values that belongs to them."""
        method = Method(mode="host" if self._device.name == "cpu" else "eager", min_samples=2, max_samples=2)
        run = TimedRun(candidate, self._definition, resident.inputs, self._device)
        look = VerifiedRun(self._verdicts, run, run, resident, self._device, method)
        try:
            for _ in range(method.min_samples):
                if look.is_due():
                    look.take()
                look.before_sample()
                run()
            look.at_the_end()
            return look.verdict()
        except Exception as error:
            return Verdict(Status.RUNTIME_ERROR, str(error))
        finally:
            resident.others.undo()

    def _resident(self, uuid: str) -> Resident:
        return self._residents.get(uuid, may_compute=True)

    def _found(self, output: str, mistake: str, candidate: Candidate) -> Found:
        verdict = self.judge(candidate)
        caught = verdict.status is not Status.PASSED
        name = self._problem.name
        return Found(name, output, mistake, verdict.status.value, caught, self._device.model, verdict.message[:300])

    # -- candidates -----------------------------------------------------------------------------------------------

    def _reference(self, *inputs: Any) -> Outputs:
        return fib.call_reference(self._definition, inputs, self._device.name)

    def _outputs(self, inputs: Sequence[Any]) -> Outputs:
        """Right ones: the reference's own where they are random, else those that it gave."""
        if self._draws:
            return self._reference(*memory.copies_of(inputs))
        return [y.clone() for y in self._answers(inputs)]

    def _answers(self, inputs: Sequence[Any]) -> Outputs:
        """The reference's outputs for the usual values or the other ones; on inputs in between nobody looks."""
        altered = self._altered.get(self._now)
        if altered is not None and memory.same_digests([memory.digest(x) for x in inputs], altered[0]):
            return altered[1]
        return self._right[self._now]

    def _returning(self, change: Callable[[Outputs], Outputs | None]) -> Candidate:
        def run(*inputs: Any) -> Outputs:
            outputs = self._outputs(inputs)
            changed = change([y.clone() for y in outputs])
            return outputs if changed is None else changed

        return Candidate(run, False)

    def _in_output(self, index: int, mistake: str) -> Callable[[Outputs], Outputs | None]:
        def change(outputs: Outputs) -> Outputs | None:
            wrong = OF_OUTPUT[mistake](outputs[index], self._resident(self._now).truths[index])
            if wrong is None:
                return None
            outputs[index] = wrong
            return outputs

        return change

    def _applies(self, index: int, mistake: str) -> bool:
        self._now = self.uuids[0]
        return self._in_output(index, mistake)([y.clone() for y in self._right[self._now]]) is not None

    def _changes(self, change: Callable[[Outputs], Outputs | None]) -> bool:
        """Whether any element that counts is another one, on any workload."""
        for uuid in self.uuids:
            self._now = uuid
            changed = change([y.clone() for y in self._right[self._now]])
            if changed is None:
                continue
            for y, x, truth in zip(changed, self._right[self._now], self._resident(self._now).truths, strict=True):
                same = _same(y, x) if y.shape == x.shape else torch.zeros((), dtype=torch.bool)
                if truth.counted is not None and same.shape == truth.counted.shape:
                    same = same | ~truth.counted
                if not bool(same.all()):
                    return True
        return False

    def _rounded_otherwise(self, outputs: Outputs) -> Outputs:
        """Floats by 2**-10 of themselves, as another order of additions in bfloat16 does; selected indices turned."""
        generator = torch.Generator().manual_seed(7)
        truths = self._resident(self._now).truths
        turned = {t.value.shape for t in truths if _in_any_order(t)}
        for index, (y, truth) in enumerate(zip(outputs, truths, strict=True)):
            if truth.rule.kind is Kind.CLOSE:
                noise = torch.randn(y.shape, generator=generator).to(y.device)
                y = (y.float() * (1 + noise * 2**-10)).to(y.dtype)
            outputs[index] = y.flip(-1) if y.shape in turned else y
        return outputs

    def _mistaken(self, mistake: str) -> Candidate | None:
        """The candidate that makes it; None where it cannot be made, or changes nothing."""
        made: dict[str, Callable[[], Candidate | None]] = {
            "one expert wrong": self._wrong_expert,
            "last token unwritten": lambda: self._writing(lambda y, first: y[:-1] if y.dim() and len(y) > 1 else y),
            "stale output of the call before": lambda: self._writing(
                lambda y, first: y if first else y[:0], stale=True
            ),
            "inputs written": self._writing_inputs,
            "order of outputs swapped": self._swapped,
            "right only the first time": self._right_once,
            "right only for one size": self._right_for_one_size,
        }
        return made[mistake]()

    def _wrong_expert(self) -> Candidate | None:
        """The weights of one expert that is used are its neighbour's."""
        names = list(self._definition.inputs)
        if self._problem.definition["op_type"] != "moe" or "gemm2_weights" not in names:
            return None
        wrong: dict[str, Outputs] = {}
        for uuid in self.uuids:
            self._now = uuid
            inputs = memory.copies_of(self._resident(self._now).inputs)
            weights = inputs[names.index("gemm2_weights")]
            for expert in range(len(weights)):
                kept = weights[expert].clone()
                weights[expert] = weights[(expert + 1) % len(weights)]
                outputs = self._reference(*inputs)
                weights[expert] = kept
                if not all(bool(_same(a, b).all()) for a, b in zip(outputs, self._right[self._now], strict=True)):
                    wrong[self._now] = outputs
                    break
        return self._returning(lambda outputs: wrong.get(self._now)) if wrong else None

    def _writing(self, part: Callable[[Any, bool], Any], stale: bool = False) -> Candidate | None:
        """Writes only a part of each output."""
        if not stale and not self._changes(lambda outputs: [_cut(y, part(y, False)) for y in outputs]):
            return None
        calls = 0

        def run(*arguments: Any) -> None:
            nonlocal calls
            calls += 1
            inputs, outputs = arguments[: -len(self._definition.outputs)], arguments[-len(self._definition.outputs) :]
            for y, x in zip(outputs, self._outputs(inputs), strict=True):
                if not y.dim():
                    if not stale or calls == 1:
                        y.copy_(x)
                    continue
                piece = part(x, calls == 1)
                y[: len(piece)].copy_(piece)

        return Candidate(run, True)

    def _writing_inputs(self) -> Candidate | None:
        """The last byte of the first input is another one."""
        written: dict[str, int] = {}

        def run(*inputs: Any) -> Outputs:
            outputs = self._outputs(inputs)
            x = next(x for x in inputs if isinstance(x, torch.Tensor) and x.numel()).view(torch.uint8).view(-1)
            x[-1] = written.setdefault(self._now, (int(x[-1]) + 1) % 256)
            return outputs

        return Candidate(run, False)

    def _swapped(self) -> Candidate | None:
        if len(self._definition.outputs) < 2 or not self._changes(lambda outputs: outputs[::-1]):
            return None
        return self._returning(lambda outputs: outputs[::-1])

    def _right_once(self) -> Candidate:
        calls = 0

        def change(outputs: Outputs) -> Outputs | None:
            nonlocal calls
            calls += 1
            return None if calls == 1 else [y.zero_() for y in outputs]

        return self._returning(change)

    def _right_for_one_size(self) -> Candidate | None:
        if len(self.uuids) < 2:
            return None
        first = [len(y) if y.dim() else 0 for y in self._right[self.uuids[0]]]

        def change(outputs: Outputs) -> Outputs | None:
            if self._now == self.uuids[0]:
                return None
            for y, size in zip(outputs, first, strict=True):
                y[size if 0 < size < len(y) else len(y) - 1 :] = 0
            return outputs

        if any(not y.dim() for y in self._right[self.uuids[0]]) or not (self._draws or self._changes(change)):
            return None
        return self._returning(change)


def examine(problem: Problem, device: str = "cpu") -> tuple[list[Found], list[str]]:
    """All that the judge said of a definition, and why workloads of it cannot be judged."""
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        examination = Examination(problem, device, Path(scratch))
        return list(examination.all()), examination.unjudgeable


def _open(device: str) -> Device:
    if device == "cpu":
        return HostDevice()
    from workers.devices.cuda import CudaDevice

    return CudaDevice()


def _same(a: Any, b: Any) -> Any:
    if not a.is_floating_point() or not b.is_floating_point():
        return a == b
    x, y = a.float(), b.float()
    return (x == y) | (torch.isnan(x) & torch.isnan(y))


def _cut(y: Any, part: Any) -> Any:
    """The output as it is when only a part is written."""
    whole = y.clone()
    if y.dim():
        memory.poison([whole[len(part) :]], 0)
    return whole


def _in_any_order(truth: Any) -> bool:
    kind, choice = truth.rule.kind, truth.choice
    turns = choice is None or (choice.axis == truth.value.dim() - 1 and not choice.ordered)
    return kind is Kind.SELECTED and truth.value.dim() > 0 and truth.value.shape[-1] > 1 and turns
