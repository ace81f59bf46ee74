"""Notices a candidate that replaced parts of the evaluator in its own process."""

from __future__ import annotations

import importlib
import operator
from collections.abc import Mapping
from typing import Any

_WATCHED = {
    "builtins": "abs all any float getattr int isinstance len max min sum type zip",
    "torch": "isfinite isnan equal allclose isclose abs where maximum stack cat clone zeros zeros_like empty "
    "empty_like ones tensor load save no_grad is_tensor",
    "torch.Tensor": "to sum item view all any fill_ zero_ clone copy_ float max amax reshape data_ptr tolist "
    "index_copy_ contiguous __eq__ __sub__ __invert__ __gt__ __and__",
    "torch.testing": "assert_close",
    "torch.cuda": "synchronize Event Stream current_stream stream _sleep CUDAGraph",
    "flashinfer_bench.bench.utils": "gen_inputs",
    "flashinfer_bench.bench.evaluators.utils": "allocate_outputs normalize_result",
}
"""Names that the evaluator, or stock flashinfer-bench after it, uses."""

_WATCHED_WHOLLY = (
    "time",
    "torch.cuda.Event",
    "torch.cuda.Stream",
    "torch.cuda.CUDAGraph",
    "workers.judge.outputs.check",
    "workers.judge.outputs.memory",
    "workers.judge.outputs.memory.Seal",
    "workers.judge.outputs.matching",
    "workers.judge.timing.timer",
    "workers.judge.timing.timed_run.TimedRun",
    "workers.judge.timing.interval",
    "workers.judge.verdicts.Verdicts",
    "workers.judge.verified_run.VerifiedRun",
    "workers.judge.comparison.Comparer",
    "workers.judge.other_values.OtherValues",
    "workers.judge.resident_workloads.Residents",
    "workers.fib.adapter",
    "workers.devices.cpu.HostDevice",
    "workers.devices.cuda.CudaDevice",
    "workers.devices.cuda._Timed",
)
"""Modules and classes all of whose functions are watched."""

_MISSING = object()


class _Place:
    """What is remembered of one namespace. Compared in one go, several times for each measurement; what that needs was
    taken from the builtins before any candidate came."""

    def __init__(self, place: Mapping[str, Any]) -> None:
        self._place = place
        self._labels: list[str] = []
        self._names: list[str] = []
        self._originals: list[Any] = []

    def remember(self, label: str, name: str) -> None:
        """A name and what it is now; it may be missing."""
        self._labels.append(label)
        self._names.append(name)
        self._originals.append(self._place.get(name, _MISSING))

    def replaced(self, all_of: Any = all, each: Any = map, same: Any = operator.is_) -> str | None:
        """The first label whose name is something else now."""
        now = [self._place.get(name, _MISSING) for name in self._names]
        if all_of(each(same, now, self._originals)):
            return None
        return next(label for label, a, b in zip(self._labels, now, self._originals, strict=True) if a is not b)


class Integrity:
    """Remembers the evaluator's functions when it starts. It is no defence against native code."""

    def __init__(self) -> None:
        self._parts: dict[int, _Place] = {}
        for owner, names in _WATCHED.items():
            self._remember(owner, names.split())
        for owner in _WATCHED_WHOLLY:
            found = vars(_resolve(owner))
            self._remember(owner, [name for name, value in found.items() if callable(value)])

    def replaced(self) -> str | None:
        """Name of a function that was replaced, None if there is none."""
        for part in self._parts.values():
            label = part.replaced()
            if label is not None:
                return label
        return None

    def _remember(self, owner: str, names: list[str]) -> None:
        """The place in which each name is found, and those in which another one would hide it."""
        found = _resolve(owner)
        places = [vars(kind) for kind in found.__mro__] if isinstance(found, type) else [vars(found)]
        for name in names:
            for place in places:
                part = self._parts.setdefault(id(place), _Place(place))
                part.remember(f"{owner}.{name}", name)
                if name in place:
                    break


def _resolve(dotted: str) -> Any:
    try:
        return importlib.import_module(dotted)
    except ModuleNotFoundError:
        module, _, attribute = dotted.rpartition(".")
        return getattr(importlib.import_module(module), attribute)
