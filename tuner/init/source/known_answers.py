"""What functions answer that kernels call while they list their configs, on a machine with an NVIDIA GPU.

Configs are listed by code that asks where it runs. It is not run here, so these tables answer for the target.
"""

from __future__ import annotations

import copy
import functools
import importlib
import importlib.metadata
import itertools
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from search_spaces.targets import Target


@dataclass(frozen=True)
class TritonConfig:
    """One ``triton.Config`` of a kernel; None where its author did not say a launch option."""

    kwargs: Mapping[str, Any]
    num_warps: int | None = None
    num_stages: int | None = None
    num_ctas: int | None = None
    maxnreg: int | None = None
    pre_hook: Any = None

    def all_kwargs(self) -> dict[str, Any]:
        """Meta-parameters and those launch options that are given, as Triton's own class has it."""
        options = {name: getattr(self, name) for name in LAUNCH_OPTIONS}
        return {**self.kwargs, **{name: value for name, value in options.items() if value is not None}}


LAUNCH_OPTIONS = {"num_warps": 4, "num_stages": 3, "num_ctas": 1, "maxnreg": None}
"""Options of a launch that a config may hold, with Triton's defaults."""


def make_config(kwargs: Mapping[str, Any] | None = None, *more: Any, **named: Any) -> TritonConfig:
    """``triton.Config(kwargs, num_warps=, num_stages=, num_ctas=, maxnreg=, pre_hook=)``, in any of its versions."""
    options = dict(zip(("num_warps", "num_stages", "num_ctas", "maxnreg"), more, strict=False)) | named
    known = {name: options.pop(name) for name in (*LAUNCH_OPTIONS, "pre_hook") if name in options}
    options.pop("ir_override", None)
    return TritonConfig({**(kwargs or {}), **options}, **known)


@dataclass(frozen=True)
class Answers:
    """Dotted names -> what they are on a target: functions and values."""

    functions: Mapping[str, Callable[..., Any]] = field(repr=False)
    values: Mapping[str, Any] = field(repr=False)


def answers_for(target: Target) -> Answers:
    """What a program would be told on a machine with a GPU of this target."""
    major, minor = target.capability or (9, 0)
    units, shared = target.limits.units, target.limits.shared_memory_bytes
    name = target.accelerators[0].name if target.accelerators else "GPU"
    driver = "triton.runtime.driver.active"
    functions: dict[str, Callable[..., Any]] = {
        "triton.Config": make_config,
        "triton.cdiv": lambda a, b: -(-a // b),
        "triton.next_power_of_2": lambda n: 1 << max(0, n - 1).bit_length(),
        "itertools.product": itertools.product,
        "itertools.chain": itertools.chain,
        "functools.partial": functools.partial,
        "functools.reduce": functools.reduce,
        "operator.mul": operator.mul,
        "copy.copy": copy.copy,
        "copy.deepcopy": copy.deepcopy,
        "os.getenv": lambda _, default=None: default,
        "torch.cuda.is_available": lambda: True,
        "torch.utils._triton.has_triton": lambda: True,
        "torch.are_deterministic_algorithms_enabled": lambda: False,
        "torch.cuda.get_device_capability": lambda *_: (major, minor),
        "torch.cuda.current_device": lambda: 0,
        "torch.cuda.device_count": lambda: 1,
        "torch.cuda.get_device_name": lambda *_: f"NVIDIA {name}",
        "packaging.version.parse": _version,
        **{f"math.{name}": getattr(math, name) for name in ("ceil", "floor", "log2", "sqrt", "prod", "log")},
    }
    properties = {"multi_processor_count": units, "major": major, "minor": minor, "max_shared_mem": shared}
    properties |= {"warp_size": 32, "max_threads_per_block": 1024}
    values: dict[str, Any] = {
        "os.environ": {},
        "torch.version.hip": None,
        "torch.version.cuda": "12.8",
        **{f"{package}.__version__": _installed(package) for package in ("torch", "triton")},
        "sys.platform": "linux",
        f"{driver}.get_current_target().backend": "cuda",
        f"{driver}.get_current_target().arch": major * 10 + minor,
        f"{driver}.get_current_target().warp_size": 32,
        f"{driver}.get_current_device()": 0,
        **{f"torch.cuda.get_device_properties().{name}": value for name, value in properties.items()},
        **{f"{driver}.utils.get_device_properties().{name}": value for name, value in properties.items()},
    }
    return Answers(functions, values)


def _installed(package: str) -> str:
    """The version of a package here; a usual one where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return {"torch": "2.11.0", "triton": "3.6.0"}[package]


def _version(text: str) -> Any:
    from packaging.version import parse

    return parse(text)


def has_attribute(module: str, name: str) -> bool | None:
    """Whether a module of Triton's or torch's has a name, such as one of a later version; None for other modules."""
    package = module.split(".")[0]
    if package not in ("triton", "torch"):
        return None
    try:
        found: Any = importlib.import_module(package)
        if package == "triton":
            importlib.import_module("triton.language")
        for part in module.split(".")[1:]:
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return None
    return hasattr(found, name)


BUILTINS: Mapping[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        range, len, min, max, list, tuple, dict, set, frozenset, sorted, sum, zip, enumerate, int, float, bool, str,
        abs, any, all, filter, map, reversed, round, isinstance,
    )
}  # fmt: skip

METHODS: Mapping[type, frozenset[str]] = {
    list: frozenset(["append", "extend", "insert", "remove", "pop", "copy", "index", "count", "sort", "reverse"]),
    dict: frozenset(["get", "items", "keys", "values", "update", "copy", "pop", "setdefault"]),
    str: frozenset(["lower", "upper", "startswith", "endswith", "split", "join", "strip"]),
    set: frozenset(["add", "union", "discard", "copy"]),
    tuple: frozenset(["index", "count"]),
    TritonConfig: frozenset(("all_kwargs",)),
}
"""Methods that may be called, by the type of what has them."""
