"""Notices a candidate that replaced parts of the evaluator in its own process."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

_WATCHED: dict[str, tuple[str, ...]] = {
    "time": ("perf_counter", "perf_counter_ns", "monotonic"),
    "torch": ("isfinite", "equal", "abs", "zeros_like", "empty", "stack", "cat", "load", "save", "no_grad"),
    "torch.Tensor": ("to", "sum", "item", "view", "all", "any", "fill_", "clone", "float", "__eq__", "__invert__"),
    "torch.cuda": ("synchronize", "Event", "_sleep", "CUDAGraph"),
    "flashinfer_bench.bench.utils": ("gen_inputs",),
    "flashinfer_bench.bench.evaluators.utils": ("allocate_outputs", "normalize_result"),
    "workers.judge.check": ("run_once", "begin_compare", "poison", "digest", "unchanged", "all_true", "same_digests"),
    "workers.judge.timer": ("measure", "warm_up"),
    "workers.judge.timed_run.TimedRun": ("__call__", "poison", "outputs"),
    "workers.judge.interval": ("median_interval",),
    "workers.fib.adapter": ("allocate_outputs", "normalize", "make_inputs", "call_reference"),
    "workers.judge.matching": ("figures",),
}


@dataclass
class Integrity:
    """Remembers what the evaluator is made of when it starts; this is no defence against native code."""

    _parts: dict[str, tuple[Any, str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for owner_name, names in _WATCHED.items():
            owner = _resolve(owner_name)
            for name in names:
                self._parts[f"{owner_name}.{name}"] = (owner, name, getattr(owner, name))

    def replaced(self) -> str | None:
        """Name of a part that is not what it was, None if all is well."""
        for label, (owner, name, original) in self._parts.items():
            if getattr(owner, name, None) is not original:
                return label
        return None


def _resolve(dotted: str) -> Any:
    try:
        return importlib.import_module(dotted)
    except ModuleNotFoundError:
        module, _, attribute = dotted.rpartition(".")
        return getattr(importlib.import_module(module), attribute)
