"""A candidate's call as it is timed: same inputs, outputs poisoned before every sample, the last one verified."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workers.devices.device import Device
from workers.fib import adapter as fib
from workers.judge import check
from workers.judge.check import Candidate


class TimedRun:
    """Call it to run the candidate once. What it leaves behind shows whether the timed runs did their work.

    Destination-passing candidates write into outputs that are allocated once; of the others the latest result is
    kept. :meth:`poison` destroys either, outside the timed part: a candidate that skips work in later runs, or hands
    out a result that it remembers, is then wrong in :meth:`outputs`.
    """

    def __init__(self, candidate: Candidate, definition: Any, inputs: Sequence[Any], device: Device) -> None:
        self._candidate = candidate
        self._definition = definition
        self._inputs, self._originals = inputs, inputs
        if candidate.writes:
            self._inputs = check.copies_of(inputs)
        self._device = device
        self._attempt = 0
        self._result: Any = None
        self._owned: tuple[Any, ...] = ()
        if candidate.destination_passing:
            self._owned = tuple(fib.allocate_outputs(definition, inputs, device.name))

    def __call__(self) -> None:
        """One call; nothing but the candidate's own work."""
        self._result = self._candidate.function(*self._inputs, *self._owned)

    def poison(self) -> None:
        """Make whatever the last run left wrong. Results that share memory with an input are left alone; inputs that
        the reference writes to are put right again."""
        self._attempt += 1
        if self._candidate.writes:
            check.restore(self._inputs, self._originals)
        check.poison(self._owned or self._returned(), self._attempt)

    def outputs(self) -> list[Any]:
        """What the last run gave, in definition order.

        Raises:
            ValueError: The number of returned values is not the number of outputs.
        """
        if self._candidate.destination_passing:
            return list(self._owned)
        return fib.normalize(self._definition, self._result, self._device.name)

    def _returned(self) -> list[Any]:
        import torch

        result = self._result if isinstance(self._result, (tuple, list)) else (self._result,)
        inputs = {t.untyped_storage().data_ptr() for t in self._inputs if isinstance(t, torch.Tensor)}
        return [t for t in result if isinstance(t, torch.Tensor) and t.untyped_storage().data_ptr() not in inputs]
