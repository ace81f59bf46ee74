"""Stands for a GPU of the target while a Solution's host code runs on a builder: kernels are compiled, not launched.

Tensors lie in main memory and say that they are on ``cuda:0``; what torch answers about the device comes from the table
of targets. The driver gives Triton the target's capability and limits, so that what exceeds them raises Triton's own
``OutOfResources``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from search_spaces.targets import Target
from workers.build.triton_jit import launchers

_SMALL_BYTES = 1 << 20
"""Uninitialised tensors up to this size are zeroed, so that a build does the same each time. Fresh memory of larger
ones is zero by itself, and stays unused if nothing but kernels would write to it."""

_READS = frozenset((
    "item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__int__", "__float__", "__index__", "unique", "equal",
    "allclose", "is_nonzero", "masked_select", "argwhere", "repeat_interleave", "bincount", "unique_consecutive",
))  # fmt: skip
"""Functions whose answer, or its shape, depends on values."""

_ENOUGH_THREADS = 1024


class OnHost(TorchFunctionMode):
    """Lets host code that works on ``cuda`` work in main memory.

    Attributes:
        data_was_read: Whether the host code looked at the values of a tensor, which no kernel has computed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.data_was_read = False

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func == _IS_CUDA:
            return True
        if func == _DEVICE:
            return torch.device("cuda", 0)
        name = getattr(func, "__name__", "")
        self.data_was_read |= name in _READS or (name == "__getitem__" and _is_masked(args[1]))
        if name == "cuda":
            return args[0]
        args = tuple(_on_host(a) for a in args)
        kwargs = {k: _on_host(v) for k, v in kwargs.items()}
        kwargs.pop("pin_memory", None)
        made = func(*args, **kwargs)
        if name.startswith(("empty", "new_empty")) and made.numel() * made.element_size() <= _SMALL_BYTES:
            made.zero_()
        return made


def _is_masked(index: Any) -> bool:
    """Whether an index chooses by values, so that the size of what it gives depends on them."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, torch.Tensor) and part.dtype in (torch.bool, torch.uint8) for part in parts)


_IS_CUDA = torch.Tensor.is_cuda.__get__  # type: ignore[attr-defined]
_DEVICE = torch.Tensor.device.__get__


def _on_host(value: Any) -> Any:
    is_device = isinstance(value, torch.device) or (isinstance(value, str) and value.partition(":")[0] == "cuda")
    return "cpu" if is_device and torch.device(value).type == "cuda" else value


class _Quiet:
    """A stream, an event, a graph: whatever is asked of it, nothing happens."""

    cuda_stream = 0
    device = torch.device("cuda", 0)

    def __init__(self, *_: Any, **__: Any) -> None: ...
    def __enter__(self) -> _Quiet:
        return self

    def __exit__(self, *_: object) -> None: ...
    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: self


class Driver:
    """What Triton asks its driver for.

    Args:
        target: The target.
    """

    def __init__(self, target: Target) -> None:
        from triton.backends.compiler import GPUTarget

        assert target.capability is not None
        self._triton_target = GPUTarget("cuda", target.capability[0] * 10 + target.capability[1], 32)
        self._capability = target.capability
        limits = target.limits
        properties = {
            "max_shared_mem": limits.shared_memory_bytes,
            "max_num_regs": limits.registers,
            "multiprocessor_count": limits.units,
            "warpSize": 32,
            "sm_clock_rate": 1_800_000,
            "mem_clock_rate": 2_600_000,
            "mem_bus_width": 6144,
        }
        self.utils = SimpleNamespace(
            get_device_properties=lambda _: properties,
            # Handles that nobody uses; registers and spills are read from the compiled files later.
            load_binary=lambda *_: (object(), 1, 0, 0, _ENOUGH_THREADS),
            fill_tma_descriptor=lambda *_: _Quiet(),
            cuOccupancyMaxActiveClusters=lambda *_: 1,
            set_printf_fifo_size=lambda _: None,
        )

    launcher_cls = launchers.Launcher

    def get_current_target(self) -> Any:
        return self._triton_target

    def get_current_device(self) -> int:
        return 0

    def set_current_device(self, _: int) -> None: ...

    def get_current_stream(self, _: int = 0) -> int:
        return 0

    def get_device_capability(self, _: int = 0) -> tuple[int, int]:
        return self._capability

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda", 0)

    def get_device_interface(self) -> Any:
        return torch.cuda

    def map_python_to_cpp_type(self, kind: str) -> str:
        from triton.backends.nvidia.driver import ty_to_cpp

        return str(ty_to_cpp(kind))

    def get_benchmarker(self) -> Callable[..., Any]:
        return _once

    def get_empty_cache_for_benchmark(self) -> torch.Tensor:
        return torch.zeros(1)

    def clear_cache(self, _: Any) -> None: ...

    def assemble_tensormap_to_arg(self, _: Any, args: Any) -> Any:
        return args


def _once(call: Callable[[], Any], *_: Any, quantiles: Sequence[float] | None = None, **__: Any) -> Any:
    """In place of a benchmark: a candidate's own autotuner has each of its configs compiled, and none timed."""
    call()
    return 1.0 if quantiles is None else [1.0] * len(quantiles)


@contextlib.contextmanager
def installed(target: Target) -> Iterator[OnHost]:
    """A process in which the target's GPU seems to be there. Gives the mode that host code is to run in."""
    import triton
    import triton.testing

    limits = target.limits
    properties = SimpleNamespace(
        name=target.accelerators[0].name,
        major=target.capability[0] if target.capability else 0,
        minor=target.capability[1] if target.capability else 0,
        multi_processor_count=limits.units,
        shared_memory_per_block_optin=limits.shared_memory_bytes,
        shared_memory_per_multiprocessor=limits.shared_memory_bytes + 1024,
        regs_per_multiprocessor=limits.registers,
        warp_size=32,
        max_threads_per_multi_processor=2048,
        total_memory=80 << 30,
        L2_cache_size=50 << 20,
    )
    answers = {
        "is_available": lambda: True, "device_count": lambda: 1, "current_device": lambda: 0,
        "set_device": lambda _: None, "get_device_properties": lambda _=0: properties,
        "get_device_capability": lambda _=0: target.capability, "get_device_name": lambda _=0: properties.name,
        "current_stream": lambda _=0: _Quiet(), "default_stream": lambda _=0: _Quiet(), "stream": _Quiet,
        "Stream": _Quiet, "Event": _Quiet, "CUDAGraph": _Quiet, "graph": _Quiet, "device": _Quiet,
        "synchronize": lambda _=0: None, "is_current_stream_capturing": lambda: False, "empty_cache": lambda: None,
        "mem_get_info": lambda _=0: (properties.total_memory, properties.total_memory),
        "_lazy_init": lambda: None,
    }  # fmt: skip
    before = triton.runtime.driver._active
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.callback(setattr, torch.cuda, name, getattr(torch.cuda, name))
            setattr(torch.cuda, name, answer)
        for name in ("do_bench", "do_bench_cudagraph"):
            stack.callback(setattr, triton.testing, name, getattr(triton.testing, name))
            setattr(triton.testing, name, _once)
        triton.runtime.driver.set_active(Driver(target))
        stack.callback(triton.runtime.driver.set_active, before)
        yield OnHost()
