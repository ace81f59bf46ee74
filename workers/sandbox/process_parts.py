"""The parts of a process that a candidate can change: how each is read, and how it is made what it was."""

from __future__ import annotations

import gc
import locale
import logging
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import is_, itemgetter
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Part:
    """Something that the whole process shares.

    Args:
        read: What it is; comparable.
        write: Makes it so; may raise where that is not possible.
        own: Whether a candidate's turn has its own.
    """

    read: Callable[[], Any]
    write: Callable[[Any], Any]
    own: bool = True


_LIBRARIES = (
    "torch",
    "torch.nn",
    "torch.nn.functional",
    "torch.cuda",
    "torch.linalg",
    "triton",
    "triton.language",
    "numpy",
)
"""Modules of others whose functions candidates use, and could replace for each other."""

_CLASSES = (("torch", "Tensor"), ("torch.nn", "Module"))
"""Classes whose methods are the same to them."""


def name_parts() -> dict[str, Part]:
    """Names that everybody in the process uses. A candidate may add some; what it replaces or removes comes back."""
    modules = list(sys.modules.items())
    own = [m for n, m in modules if n.partition(".")[0] in sys.stdlib_module_names and isinstance(m, ModuleType)]
    theirs: list[Any] = [sys.modules[name] for name in _LIBRARIES if name in sys.modules]
    theirs += [getattr(sys.modules[module], name) for module, name in _CLASSES if module in sys.modules]
    return {
        "Python's own functions": _kept([_functions(module) for module in own]),
        "functions of libraries": _kept([_functions(owner) for owner in theirs]),
        "imported modules": _kept([_Kept(sys.modules, dict(sys.modules), sys.modules.update)]),
    }


def torch_parts() -> dict[str, Part]:
    import torch
    import torch.utils._device

    backends, c = torch.backends, torch._C
    return {
        "torch's threads": Part(torch.get_num_threads, torch.set_num_threads),
        "torch's interop threads": Part(torch.get_num_interop_threads, torch.set_num_interop_threads),
        "default dtype": Part(torch.get_default_dtype, torch.set_default_dtype),
        "default device": Part(lambda: torch.utils._device.CURRENT_DEVICE, torch.set_default_device),
        "modes": Part(lambda: (c._len_torch_function_stack(), c._len_torch_dispatch_stack()), _pop_modes),
        "gradients": Part(torch.is_grad_enabled, torch.set_grad_enabled),
        "inference mode": Part(torch.is_inference_mode_enabled, _cannot),
        "anomaly detection": Part(torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
        "deterministic algorithms": Part(
            lambda: (
                torch.are_deterministic_algorithms_enabled(),
                torch.is_deterministic_algorithms_warn_only_enabled(),
            ),
            lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
        ),
        "filling of uninitialised memory": _attribute(torch.utils.deterministic, "fill_uninitialized_memory"),
        "autocast": Part(lambda: tuple(map(torch.is_autocast_enabled, ("cpu", "cuda"))), _set_autocast),
        "matmul precision": Part(_precision, _set_precision),
        "reduced precision of float16 sums": _attribute(backends.cuda.matmul, "allow_fp16_reduced_precision_reduction"),
        "reduced precision of bfloat16 sums": _attribute(
            backends.cuda.matmul, "allow_bf16_reduced_precision_reduction"
        ),
        "cuDNN": Part(lambda: _flags(backends.cudnn), lambda value: _set_flags(backends.cudnn, value)),
        "oneDNN": Part(lambda: backends.mkldnn.enabled, lambda value: backends.mkldnn.set_flags(value)),
        "denormal numbers": Part(lambda: sys.float_info.min / 2 == 0.0, torch.set_flush_denormal),
        "numba's threads": Part(_numba_threads, _set_numba_threads),
    }


def cuda_parts() -> dict[str, Part]:
    import torch

    parts = {
        "CUDA device": Part(torch.cuda.current_device, torch.cuda.set_device),
        "CUDA stream": Part(torch.cuda.current_stream, torch.cuda.set_stream),
        "CUDA synchronisation checks": Part(torch.cuda.get_sync_debug_mode, torch.cuda.set_sync_debug_mode),
    }
    # Not public: torch 2.11 has no way to read them. What cannot be read is not watched.
    read, write = (getattr(torch._C, f"_accelerator_{verb}AllocatorSettings", None) for verb in ("get", "set"))
    if read is not None and write is not None:
        parts["allocator settings"] = Part(read, write)
    return parts


def process_parts() -> dict[str, Part]:
    return {
        "environment variables": Part(_environment, _set_environment),
        "working folder": Part(_folder, os.chdir),
        "CPUs that it may run on": Part(lambda: os.sched_getaffinity(0), lambda value: os.sched_setaffinity(0, value)),
        "niceness": Part(lambda: os.getpriority(os.PRIO_PROCESS, 0), lambda v: os.setpriority(os.PRIO_PROCESS, 0, v)),
        "rounding and locale": Part(
            lambda: locale.setlocale(locale.LC_ALL), lambda v: locale.setlocale(locale.LC_ALL, v)
        ),
        "garbage collection": Part(lambda: (gc.isenabled(), gc.get_threshold()), _set_gc),
        "warning filters": Part(lambda: list(warnings.filters), _set_filters, own=False),
        "logging": Part(_logging, _set_logging, own=False),
        "signal handlers": Part(_handlers, _set_handlers, own=False),
        "timers of signals": Part(
            lambda: signal.getitimer(signal.ITIMER_REAL)[1], lambda _: signal.setitimer(0, 0), own=False
        ),
        "limits of resources": Part(_limits, _set_limits, own=False),
        "descriptors of standard output and error": Part(lambda: (_file(1), _file(2)), _cannot, own=False),
        "standard streams": Part(lambda: _Same(sys.stdout, sys.stderr), _set_streams, own=False),
        "hooks of the interpreter": Part(
            lambda: _Same(sys.excepthook, sys.displayhook, sys.gettrace(), sys.getprofile(), *sys.meta_path),
            _set_hooks,
            own=False,
        ),
        "recursion limit": Part(sys.getrecursionlimit, sys.setrecursionlimit),
        "switching of threads": Part(sys.getswitchinterval, sys.setswitchinterval),
    }


@dataclass(frozen=True)
class _Kept:
    """A namespace, what it keeps, what gives it names back, and names that would hide what it inherits."""

    place: Mapping[str, Any]
    names: Mapping[str, Any]
    give: Callable[[Mapping[str, Any]], Any]
    hiding: frozenset[str] = frozenset()


def _functions(owner: Any) -> _Kept:
    """What can be called in a module or a class."""
    place = vars(owner)
    names = {name: value for name, value in place.items() if callable(value)}
    if isinstance(place, dict):
        return _Kept(place, names, place.update)

    hiding = frozenset(dir(owner)).difference(place)

    def give(names: Mapping[str, Any], put: Any = setattr, remove: Any = delattr) -> None:
        for name in names:
            if place.get(name) is not names[name]:
                put(owner, name, names[name])
        for name in hiding.intersection(place):
            remove(owner, name)

    return _Kept(place, names, give, hiding)


def _kept(held: list[_Kept]) -> Part:
    """Namespaces; read are those in which something is missing, with what they should have. Reading them uses no
    built-in name, since those may be what was replaced.

    Thousands of names are looked at after every candidate, so a whole namespace is compared at once.
    """
    whole = [(one, itemgetter(*one.names, next(iter(one.names)))) for one in held if one.names]
    kept = [(one.place, get, get(one.place), one.names, one.hiding) for one, get in whole]

    def replaced(all_of: Any = all, each: Any = map, missing: type[BaseException] = KeyError) -> list[Any]:
        found = []
        for place, get, values, names, hiding in kept:
            try:
                if all_of(each(is_, get(place), values)) and (not hiding or hiding.isdisjoint(place)):
                    continue
            except missing:
                pass
            found.append((place, names))
        return found

    def put_back(_: Any) -> None:
        for one in held:
            one.give(one.names)

    return Part(replaced, put_back, own=False)


class _Same:
    """Objects that are compared by what they are, not by what they say of themselves."""

    def __init__(self, *objects: Any) -> None:
        self.objects = objects

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Same) or len(self.objects) != len(other.objects):
            return False
        return all(a is b for a, b in zip(self.objects, other.objects, strict=True))

    __hash__ = None  # type: ignore[assignment]


def _cannot(_: Any) -> None:
    raise RuntimeError("no way back")


def _attribute(owner: Any, name: str) -> Part:
    return Part(lambda: getattr(owner, name), lambda value: setattr(owner, name, value))


def _pop_modes(value: tuple[int, int]) -> None:
    import torch

    while torch._C._len_torch_function_stack() > value[0]:
        torch._C._pop_torch_function_stack()
    while torch._C._len_torch_dispatch_stack() > value[1]:
        torch._C._pop_torch_dispatch_stack()


def _set_autocast(value: tuple[bool, ...]) -> None:
    import torch

    for device, enabled in zip(("cpu", "cuda"), value, strict=True):
        torch.set_autocast_enabled(device, enabled)


_PRECISIONS = (
    ("generic", "all"),
    *((backend, op) for backend in ("cuda", "mkldnn") for op in ("all", "matmul", "conv", "rnn")),
)


def _precision() -> tuple[Any, ...]:
    import torch

    try:
        known: Any = torch.get_float32_matmul_precision()
    except RuntimeError:  # set by the new interface in a way that the old one has no word for
        known = None
    return (known, *(torch._C._get_fp32_precision_getter(*place) for place in _PRECISIONS))


def _set_precision(value: tuple[Any, ...]) -> None:
    import torch

    if value[0] is not None:
        torch.set_float32_matmul_precision(value[0])
    for place, precision in zip(_PRECISIONS, value[1:], strict=True):
        if torch._C._get_fp32_precision_getter(*place) != precision:
            torch._C._set_fp32_precision_setter(*place, precision)


def _flags(cudnn: Any) -> tuple[bool, ...]:
    return cudnn.enabled, cudnn.benchmark, cudnn.deterministic


def _set_flags(cudnn: Any, value: tuple[bool, ...]) -> None:
    cudnn.enabled, cudnn.benchmark, cudnn.deterministic = value


def _numba_threads() -> int:
    """What numba uses, or will use once somebody asks for threads; 0 without it."""
    numba, pool = sys.modules.get("numba"), sys.modules.get("numba.np.ufunc.parallel")
    if numba is None:
        return 0
    return numba.get_num_threads() if pool and pool._is_initialized else numba.config.NUMBA_NUM_THREADS


def _set_numba_threads(value: int) -> None:
    if value:
        sys.modules["numba"].set_num_threads(value)


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""  # it was removed


def _file(descriptor: int) -> tuple[int, int] | None:
    """Which file a descriptor is of. What was opened under its number since it was closed is in use, so that it cannot
    be made what it was."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _environment() -> dict[bytes, bytes]:
    # Read several times for each candidate: what os.environ keeps is copied as it is, since decoding takes longest.
    return dict(os.environ._data)  # type: ignore[attr-defined]


def _set_environment(value: dict[bytes, bytes]) -> None:
    for name in os.environb.keys() - value.keys():
        del os.environb[name]
    os.environb.update({name: text for name, text in value.items() if os.environb.get(name) != text})


def _set_gc(value: tuple[bool, tuple[int, int, int]]) -> None:
    (gc.enable if value[0] else gc.disable)()
    gc.set_threshold(*value[1])


def _set_filters(value: list[Any]) -> None:
    warnings.filters[:] = value  # type: ignore[index]
    warnings._filters_mutated()  # type: ignore[attr-defined]


def _logging() -> tuple[Any, ...]:
    root = logging.getLogger()
    return root.level, root.manager.disable, _Same(*root.handlers)


def _set_logging(value: tuple[Any, ...]) -> None:
    root = logging.getLogger()
    root.setLevel(value[0])
    logging.disable(value[1])
    root.handlers[:] = value[2].objects


_SIGNALS = tuple(
    signal.Signals[f"SIG{name}"]
    for names in ("HUP INT QUIT ILL TRAP ABRT BUS FPE", "USR1 SEGV USR2 PIPE ALRM TERM CHLD VTALRM PROF")
    for name in names.split()
)


def _handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in _SIGNALS}


def _set_handlers(value: dict[int, Any]) -> None:
    for number, handler in value.items():
        # One of native code has no name here, and Python cannot install it.
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


_LIMITED = (
    resource.RLIMIT_DATA,
    resource.RLIMIT_AS,
    resource.RLIMIT_NOFILE,
    resource.RLIMIT_CPU,
    resource.RLIMIT_STACK,
)


def _limits() -> list[tuple[int, int]]:
    return [resource.getrlimit(kind) for kind in _LIMITED]


def _set_limits(value: list[tuple[int, int]]) -> None:
    for kind, limit in zip(_LIMITED, value, strict=True):
        resource.setrlimit(kind, limit)


def _set_streams(value: _Same) -> None:
    sys.stdout, sys.stderr = value.objects


def _set_hooks(value: _Same) -> None:
    sys.excepthook, sys.displayhook, trace, profile, *finders = value.objects
    sys.settrace(trace)
    sys.setprofile(profile)
    sys.meta_path[:] = finders
