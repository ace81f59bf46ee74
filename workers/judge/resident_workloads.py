"""Workloads that stay in the evaluator's memory: inputs on the device, reference outputs, digests of both."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workers.devices.device import Device
from workers.errors import WorkerError
from workers.fib import adapter as fib
from workers.fib.dataset import Problem
from workers.judge import check
from workers.judge.references import ReferenceStore
from workers.records import Tolerance


@dataclass(frozen=True)
class Resident:
    """A workload ready to be judged on.

    ``inputs`` are in definition order (tensors on the device, scalars), ``expected`` the reference outputs;
    ``digests`` are of the inputs; ``seals`` are quick digests of inputs and expected outputs; ``degenerate`` says why
    nothing can be judged by them, if so.
    """

    uuid: str
    inputs: tuple[Any, ...]
    digests: tuple[Any, ...]
    expected: tuple[Any, ...]
    seals: tuple[Any, ...]
    degenerate: str | None
    nbytes: int


class Residents:
    """Workloads within a memory budget, least recently used out first.

    Reference outputs are computed in a process that has not run any candidate yet, and stored. Whoever needs the
    workload again (after an eviction, in a replaced process, another evaluator) makes the inputs anew from the seed,
    compares their digests with the stored ones, and loads the outputs.

    Args:
        problem: Definition and workloads.
        device: Where inputs live.
        store: Of reference outputs.
        budget_bytes: Limit for all residents; one alone may exceed it.
    """

    def __init__(self, problem: Problem, device: Device, store: ReferenceStore, budget_bytes: int) -> None:
        self._problem = problem
        self._definition = fib.definition_model(problem.definition)
        self._rule: Tolerance = fib.tolerance(problem.definition)
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
            uuid: Which.
            may_compute: Whether its reference may run in this process, where no stored outputs fit.

        Raises:
            DatasetError: The workload is unknown, a blob is missing, or the reference fails.
            WorkerError: There are no stored outputs that belong to these inputs.
        """
        if uuid in self._held:
            self._held.move_to_end(uuid)
            return self._held[uuid]
        resident = self._make(uuid, may_compute)
        while self._held and sum(r.nbytes for r in self._held.values()) + resident.nbytes > self._budget_bytes:
            self._held.popitem(last=False)
        self._held[uuid] = resident
        return resident

    def drop(self, uuid: str) -> None:
        """Forget a workload, for example because its inputs were modified."""
        self._held.pop(uuid, None)

    def keep_only(self, uuid: str) -> bool:
        """Forget all workloads but one; whether there were others."""
        others = [held for held in self._held if held != uuid]
        for other in others:
            self.drop(other)
        return bool(others)

    def begin_inspection(self) -> dict[str, list[Any]]:
        """For each workload in memory, booleans on the device that tell whether inputs and expected outputs are still
        what they were. Does not wait; :func:`workers.judge.check.all_true` does."""
        return {
            uuid: check.unchanged((*held.inputs, *held.expected), held.seals, thorough=False)
            for uuid, held in self._held.items()
        }

    def _make(self, uuid: str, may_compute: bool) -> Resident:
        import torch

        workload = fib.workload_model(self._problem.workload(uuid))
        inputs = tuple(fib.make_inputs(self._definition, workload, self._problem.root, self._device.name))
        digests = tuple(check.digest(value) for value in inputs)
        stored = self._store.load(uuid, self._device.name)
        if stored is not None and check.same_digests(digests, stored["digests"]):
            expected, degenerate = tuple(stored["expected"]), stored["degenerate"]
        elif may_compute:
            expected = tuple(fib.run_reference(self._definition, inputs, self._device.name))
            self._device.synchronize()
            degenerate = check.why_degenerate(expected, self._rule)
            self._store.save(uuid, {"digests": list(digests), "expected": list(expected), "degenerate": degenerate})
            # A reference may need many times the memory of its inputs.
            self._device.release()
        else:
            why = "is none" if stored is None else "are only such of other inputs"
            raise WorkerError(f"workload {uuid}: reference outputs are needed and there {why}")
        seals = tuple(check.digest(value, thorough=False) for value in (*inputs, *expected))
        nbytes = sum(v.nbytes for v in (*inputs, *expected) if isinstance(v, torch.Tensor))
        return Resident(uuid, inputs, digests, expected, seals, degenerate, nbytes)
