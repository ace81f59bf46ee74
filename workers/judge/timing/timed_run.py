"""A candidate's call as it is timed, with outputs poisoned before every sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workers.devices.device import Device
from workers.fib import adapter as fib
from workers.judge.outputs import memory
from workers.judge.outputs.check import Candidate


class TimedRun:
    """Call it to run the candidate once. Its outputs show whether the timed runs did their work.

    Destination-passing candidates write into outputs that are allocated once; of others the latest result is kept.
    :meth:`poison` destroys either, outside the timed part. A candidate that skips work in later runs, or returns a
    remembered result, then has wrong :meth:`outputs`.
    """

    def __init__(self, candidate: Candidate, definition: Any, inputs: Sequence[Any], device: Device) -> None:
        self._candidate = candidate
        self._definition = definition
        self._inputs, self._originals = inputs, inputs
        if candidate.writes:
            self._inputs = memory.copies_of(inputs)
        self._device = device
        self._attempt = 0
        self._result: Any = None
        self._owned: tuple[Any, ...] = ()
        if candidate.destination_passing:
            self._owned = tuple(fib.allocate_outputs(definition, inputs, device.name))

    def __call__(self) -> None:
        """One call, with nothing but the candidate's own work."""
        self._result = self._candidate.function(*self._inputs, *self._owned)

    def poison(self) -> None:
        """Overwrite the results of the last run. Results that share memory with an input are left unchanged; inputs
        that the reference writes to are restored."""
        self._attempt += 1
        if self._candidate.writes:
            memory.restore(self._inputs, self._originals)
        memory.poison(self._owned or self._returned(), self._attempt)

    def outputs(self) -> list[Any]:
        """The outputs of the last run, in the order of the definition.

        Raises:
            ValueError: There are more or fewer values than outputs.
        """
        if self._candidate.destination_passing:
            return list(self._owned)
        return fib.normalize(self._definition, self._result, self._device.name)

    def _returned(self) -> list[Any]:
        import torch

        inputs = {t.untyped_storage().data_ptr() for t in self._inputs if isinstance(t, torch.Tensor)}
        return [
            t
            for t in fib.returned(self._result)
            if isinstance(t, torch.Tensor) and t.untyped_storage().data_ptr() not in inputs
        ]
