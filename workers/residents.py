"""Workloads that stay in the evaluator's memory: inputs on the device, reference outputs, digests of the inputs."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers import check, fib
from workers.dataset import Problem
from workers.device import Device
from workers.errors import WorkerError
from workers.records import Tolerance


@dataclass(frozen=True)
class Resident:
    """A workload ready to be judged on.

    ``inputs`` are in definition order (tensors on the device, scalars), ``expected`` the reference outputs;
    ``degenerate`` says why nothing can be judged by them, if so.
    """

    uuid: str
    inputs: tuple[Any, ...]
    digests: tuple[Any, ...]
    expected: tuple[Any, ...]
    degenerate: str | None
    nbytes: int


class Residents:
    """Workloads within a memory budget, least recently used out first.

    Reference outputs are computed once per evaluator, in a process that has not run any candidate yet, and stored in
    ``store``. Whoever needs the workload again (after an eviction, in a replaced process) makes the inputs anew from
    the seed, compares their digests with the stored ones, and loads the outputs.

    Args:
        problem: Definition and workloads.
        device: Where inputs live.
        store: Folder for reference outputs, shared by successive processes of one evaluator.
        budget_bytes: Limit for all residents; one alone may exceed it.
    """

    def __init__(self, problem: Problem, device: Device, store: Path, budget_bytes: int) -> None:
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

    def get(self, uuid: str) -> Resident:
        """The workload, made resident if it is not.

        Raises:
            DatasetError: The workload is unknown, a blob is missing, or the reference fails.
            WorkerError: The inputs differ from those that the stored reference outputs belong to.
        """
        if uuid in self._held:
            self._held.move_to_end(uuid)
            return self._held[uuid]
        resident = self._make(uuid)
        while self._held and sum(r.nbytes for r in self._held.values()) + resident.nbytes > self._budget_bytes:
            self._held.popitem(last=False)
        self._held[uuid] = resident
        return resident

    def drop(self, uuid: str) -> None:
        """Forget a workload, for example because its inputs were modified."""
        self._held.pop(uuid, None)

    def _make(self, uuid: str) -> Resident:
        import torch

        workload = fib.workload_model(self._problem.workload(uuid))
        inputs = tuple(fib.make_inputs(self._definition, workload, self._problem.root, self._device.name))
        digests = tuple(check.digest(value) for value in inputs)
        path = self._store / f"{uuid}.pt"
        if path.exists():
            stored = torch.load(path, map_location=self._device.name)
            if not check.same_digests(digests, stored["digests"]):
                raise WorkerError(f"workload {uuid}: the inputs made now differ from those its reference was run on")
            expected, degenerate = tuple(stored["expected"]), stored["degenerate"]
        else:
            expected = tuple(fib.run_reference(self._definition, inputs, self._device.name))
            self._device.synchronize()
            degenerate = check.why_degenerate(expected, self._rule)
            document = {"digests": list(digests), "expected": list(expected), "degenerate": degenerate}
            partial = path.with_suffix(".partial")
            torch.save(document, partial)
            os.replace(partial, path)
        nbytes = sum(v.nbytes for v in (*inputs, *expected) if isinstance(v, torch.Tensor))
        return Resident(uuid, inputs, digests, expected, degenerate, nbytes)
