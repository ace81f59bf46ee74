"""Workloads that stay in the evaluator's memory: inputs on the device, what outputs are judged by, digests of both."""

from __future__ import annotations

import gc
import random
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from workers.devices.device import CHECK, Device
from workers.errors import DatasetError, WorkerError
from workers.fib import adapter as fib
from workers.fib.dataset import LIKE, PROFILE, Document, Problem
from workers.fib.made_inputs import described, inputs_of, lent_names
from workers.judge.other_values import SHARES, Alteration, OtherValues, choose
from workers.judge.outputs import check, memory
from workers.judge.outputs.expected import truths_of
from workers.judge.outputs.rules import Kind, rules_for
from workers.judge.outputs.truth import Truth, judged_by, largest_scale, why_unjudgeable
from workers.judge.references import ReferenceStore
from workers.records import Prepared, Status

if TYPE_CHECKING:
    from workers.judge.outputs.observed import Observed

Inspection = dict[str, list[Any]]
"""Uuid -> booleans on the device: whether its inputs and expected outputs are unchanged."""


@dataclass(frozen=True)
class Resident:
    """A workload ready to be judged on.

    ``inputs`` are in definition order (tensors on the device, scalars), ``truths`` what outputs are judged by;
    ``inputs_seal`` tells whether the inputs are unchanged, ``seal`` the same of inputs and truths, for a stray write;
    ``degenerate`` says why nothing can
    be judged by them, if so; ``wrote`` names the inputs that the reference writes to. ``others`` are other values for
    the inputs, and ``other_truths`` what outputs on these are judged by, where there are any.
    """

    uuid: str
    inputs: fib.Inputs
    inputs_seal: memory.Seal
    truths: tuple[Truth, ...]
    seal: memory.Seal
    degenerate: str | None
    wrote: tuple[str, ...] = ()
    others: OtherValues = field(default_factory=lambda: OtherValues((), None))
    other_truths: tuple[Truth, ...] = ()

    @property
    def sealed(self) -> tuple[Any, ...]:
        """The tensors that ``seal`` is of."""
        return (*self.inputs, *(tensor for truth in (*self.truths, *self.other_truths) for tensor in truth.tensors))

    @property
    def is_drawn(self) -> bool:
        """Whether an output is random, so that a candidate's draws have to be looked at."""
        return any(t.before is not None or t.draws is not None for t in self.truths)

    @property
    def judged_by(self) -> dict[str, Any]:
        """Output -> rule, as a measurement's conditions hold it."""
        return {fib.JUDGED_BY: judged_by(self.truths)}


def _tensors_of(resident: Resident) -> dict[int, int]:
    """Address -> bytes of the tensors of a workload."""
    import torch

    return {v.data_ptr(): v.nbytes for v in resident.sealed if isinstance(v, torch.Tensor) and v.nbytes}


def _bytes_of(residents: Sequence[Resident]) -> int:
    """Bytes that workloads take, each tensor once."""
    found: dict[int, int] = {}
    for resident in residents:
        found.update(_tensors_of(resident))
    return sum(found.values())


def prepared(resident: Resident) -> Prepared:
    """What a sweep is told of a workload in memory."""
    notes = [f"the reference writes to its input {name!r}; it works on a copy" for name in resident.wrote]
    for truth in resident.truths:
        if truth.counted is not None:
            missing = truth.counted.numel() - int(truth.counted.sum())
            notes.append(f"{missing} elements of output {truth.rule.output!r} do not count: unwritten or random")
        if truth.returned is not None:
            dtype, shape = truth.returned
            theirs, declared = f"{dtype} {list(shape)}", f"{truth.value.dtype} {list(truth.value.shape)}"
            notes.append(f"output {truth.rule.output!r} is {declared} by its definition; its reference gives {theirs}")
        if truth.idle is not None:
            notes.append(f"output {truth.rule.output!r} is no evidence: it {truth.idle}")
    plainly = all(
        t.rule.kind is Kind.CLOSE and t.finite and t.counted is None and t.returned is None for t in resident.truths
    )
    return Prepared(
        resident.degenerate, tuple(notes), judged_by(resident.truths), largest_scale(resident.truths), plainly
    )


class Residents:
    """Workloads within a memory budget, least recently used out first.

    Reference outputs are computed in a process that has not run any candidate yet, and stored. A process that needs the
    workload again (after an eviction, as a replacement, on another evaluator) makes the inputs anew from the seed,
    compares their digests with the stored ones, and loads the outputs.

    Workloads made after the same listed one have tensors in common (made_inputs.py), which are in memory once.

    Args:
        problem: Definition and workloads.
        device: Where inputs live.
        store: Of reference outputs.
        budget_bytes: Limit for all residents; one alone may exceed it.
    """

    def __init__(self, problem: Problem, device: Device, store: ReferenceStore, budget_bytes: int) -> None:
        self._problem = problem
        self._definition = fib.definition_model(problem.definition)
        self._rules = rules_for(problem.definition, problem.asked)
        self._device = device
        self._store = store
        self._budget_bytes = budget_bytes
        self._held: OrderedDict[str, Resident] = OrderedDict()

    @property
    def held(self) -> Sequence[str]:
        """Uuids in memory, least recently used first."""
        return list(self._held)

    def get(self, uuid: str, *, may_compute: bool = False) -> Resident:
        """The workload, made resident if it is not.

        Args:
            uuid: The workload's.
            may_compute: Whether its reference may run in this process, where no stored outputs fit.

        Raises:
            DatasetError: The workload is unknown, a blob is missing, or the reference fails.
            WorkerError: There are no stored outputs that belong to these inputs.
        """
        if uuid in self._held:
            self._held.move_to_end(uuid)
            return self._held[uuid]
        resident = self._make(uuid, may_compute)
        # What is frozen is not in the garbage collector's lists: a candidate does not find the answers there.
        gc.freeze()
        while self._held and _bytes_of([*self._held.values(), resident]) > self._budget_bytes:
            self._held.popitem(last=False)
        self._held[uuid] = resident
        return resident

    def figures(self, uuid: str) -> dict[str, Any]:
        """What the inputs of a workload in memory do.

        Raises:
            DatasetError: The generator that should say it fails.
        """
        inputs = dict(zip(self._problem.definition["inputs"], self._held[uuid].inputs, strict=True))
        filled = () if self._problem.generator is None else self._problem.generator.fills
        return described(self._problem, self._problem.workload(uuid), {n: inputs[n] for n in filled if n in inputs})

    def drop(self, uuid: str) -> None:
        """Forget a workload, for example because its inputs were modified, and all that have tensors in common."""
        gone = self._held.pop(uuid, None)
        if gone is None:
            return
        tensors = _tensors_of(gone).keys()
        for other in [held for held, resident in self._held.items() if tensors & _tensors_of(resident).keys()]:
            del self._held[other]

    def keep_only(self, uuid: str) -> bool:
        """Forget all workloads but one; returns whether there were others."""
        others = [held for held in self._held if held != uuid]
        for other in others:
            del self._held[other]
        return bool(others)

    def begin_inspection(self) -> Inspection:
        """Inspect all workloads in memory. Does not wait; :func:`workers.judge.outputs.memory.all_true` does."""
        with self._device.span(CHECK):
            return {uuid: held.seal.holds(held.sealed) for uuid, held in self._held.items()}

    def _make(self, uuid: str, may_compute: bool) -> Resident:
        from workers.judge.outputs.observed import Observed, observe

        device = self._device.name
        inputs = self._inputs(uuid)
        digests = tuple(memory.digest(value) for value in inputs)
        stored = self._store.load(uuid, device)
        if stored is not None and memory.same_digests(digests, stored["digests"]):
            seen = Observed.of_document(stored["seen"])
            other = stored["other"]
        elif may_compute:
            seen = observe(self._definition, inputs, device)
            self._device.synchronize()
            other = self._other_answer(inputs, seen, self._drawn(self._problem.workload(uuid)))
            self._store.save(uuid, {"digests": list(digests), "seen": seen.document(), "other": other})
            # A reference may need many times the memory of its inputs.
            self._device.release()
        else:
            why = "is none" if stored is None else "are only such of other inputs"
            raise WorkerError(f"workload {uuid}: reference outputs are needed and there {why}")
        truths = truths_of(self._rules, seen, inputs)
        others, other_truths = OtherValues(inputs, None), tuple[Truth, ...]()
        if other is not None:
            others = OtherValues(inputs, Alteration.of_document(other["alteration"]))
            with others.altered():
                other_truths = truths_of(self._rules, Observed.of_document(other["seen"]), inputs)
        seal, wrote = memory.Seal(inputs), tuple(seen.wrote)
        made = Resident(uuid, inputs, seal, truths, seal, why_unjudgeable(truths), wrote, others, other_truths)
        return replace(made, seal=memory.Seal(made.sealed, thorough=False))

    def _inputs(self, uuid: str) -> fib.Inputs:
        """The inputs of a workload; what those in memory have in common with it is taken from them."""
        document = self._problem.workload(uuid)
        names = list(self._problem.definition["inputs"])
        common: dict[str, Any] = {}
        for held, resident in self._held.items():
            if self._origin(held) == self._origin(uuid):
                lends = names if held == self._origin(uuid) else lent_names(self._problem.workload(held))
                common.update((n, v) for n, v in zip(names, resident.inputs, strict=True) if n in lends)
        wanted = lent_names(document)
        lent = {name: common[name] for name in wanted} if common.keys() >= set(wanted) else None
        inputs = inputs_of(self._problem, document, self._device.name, lent)
        if PROFILE in document:
            return inputs
        # A listed workload, of which some that were made after it are in memory.
        known = fib.Inputs(common.get(name, value) for name, value in zip(names, inputs, strict=True))
        known.axes = inputs.axes
        return known

    def _origin(self, uuid: str) -> str:
        """The listed workload that a workload is, or is made after."""
        document = self._problem.workload(uuid)
        return str(document[LIKE]["uuid"]) if PROFILE in document else uuid

    def _drawn(self, document: Document) -> list[int]:
        """Positions of the inputs that flashinfer-bench draws at random."""
        filled = () if self._problem.generator is None or PROFILE not in document else self._problem.generator.fills
        given = {name for name, spec in document["inputs"].items() if spec["type"] != "random"}
        return [i for i, name in enumerate(self._problem.definition["inputs"]) if name not in given | set(filled)]

    def _other_answer(self, inputs: fib.Inputs, seen: Observed, drawn: Collection[int]) -> dict[str, Any] | None:
        """Other values on which the usual answer is wrong, and what the reference does with them; None if none were
        found."""
        from workers.judge.outputs.observed import observe

        for share in SHARES:
            alteration = choose(inputs, share, random.SystemRandom(), drawn)
            if alteration is None:
                return None
            with OtherValues(inputs, alteration).altered():
                try:
                    other = observe(self._definition, inputs, self._device.name)
                    self._device.synchronize()
                except DatasetError:
                    continue  # not every value goes with every other
                truths = truths_of(self._rules, other, inputs)
            if why_unjudgeable(truths) is None and check.compare(seen.expected, truths).status is not Status.PASSED:
                return {"alteration": alteration.document(), "seen": other.document()}
        return None
