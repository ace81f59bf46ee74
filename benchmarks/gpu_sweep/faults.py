"""Turns any Python variant into one that does harm: each kind of fault that a sweep has to survive.

    faulty(variant, "illegal_address")            # from its first call on
    faulty(variant, "endless", at_call=4)         # right three times

The variant's own entry point still runs first; the fault comes after it, on the caller's stream. On a GPU the kernels
of the faults are PTX that the driver assembles, so no compiler is needed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from workers.records import Status, Variant

EXPECTED = {
    "illegal_address": Status.CRASHED,
    "misaligned": Status.CRASHED,
    "launch_failure": Status.CRASHED,
    "segfault": Status.CRASHED,
    "exit": Status.CRASHED,
    "endless": Status.TIMEOUT,
    "endless_on_host": Status.TIMEOUT,
    "out_of_memory": Status.RUNTIME_ERROR,
    "bad_launch": Status.RUNTIME_ERROR,
    "exception": Status.RUNTIME_ERROR,
    "wrong_result": Status.INCORRECT_NUMERICAL,
    "nan": Status.INCORRECT_NUMERICAL,
    "writes_inputs": Status.INPUTS_MODIFIED,
}
"""Kind -> status of a variant that does it in its first call. In a later call WRONG_LATER has the differences."""

WRONG_LATER = {"wrong_result": Status.NOT_REPEATABLE, "nan": Status.NOT_REPEATABLE}

_WRAPPER = """
import ctypes
import os

import torch

from .{inner} import {symbol} as _unharmed

KIND, AT_CALL = {kind!r}, {at_call}
PTX = {ptx!r}
_calls = 0
_kernels = {{}}


def {symbol}(*args):
    global _calls
    _calls += 1
    result = _unharmed(*args)
    tensors = [a for a in args if isinstance(a, torch.Tensor)]
    if _calls == 1 and tensors[0].is_cuda:
        # A module cannot be loaded while a graph is captured.
        _load()
    if _calls < AT_CALL:
        return result
    outputs = [t for t in (result if isinstance(result, (tuple, list)) else [result]) if isinstance(t, torch.Tensor)]
    if KIND == "exception":
        raise ValueError("planted")
    if KIND == "segfault":
        ctypes.string_at(0)
    elif KIND == "exit":
        os._exit(0)
    elif KIND in ("wrong_result", "nan"):
        for tensor in outputs or tensors[-1:]:
            tensor.fill_(float("nan") if KIND == "nan" else 0)
    elif KIND == "endless_on_host":
        while True:
            pass
    elif KIND == "writes_inputs":
        bytes_ = max(tensors[: len(tensors) - (not outputs)], key=lambda t: t.nbytes).view(torch.uint8).view(-1)
        bytes_[bytes_.numel() // 2] += 1
    elif KIND == "out_of_memory":
        torch.empty(1 << 50, dtype=torch.uint8, device=tensors[0].device)
    elif tensors[0].is_cuda:
        _launch(tensors[-1])
    elif KIND == "endless":
        while True:
            pass
    elif KIND == "bad_launch":
        raise RuntimeError("planted: not on a CPU")
    else:
        ctypes.string_at(0)
    return result


def _load():
    module = ctypes.c_void_p()
    _must(cuda().cuModuleLoadData(ctypes.byref(module), PTX.encode()))
    for entry in ("illegal_address", "misaligned", "launch_failure", "endless"):
        _kernels[entry] = ctypes.c_void_p()
        _must(cuda().cuModuleGetFunction(ctypes.byref(_kernels[entry]), module, entry.encode()))


def cuda():
    return ctypes.CDLL("libcuda.so.1")


def _launch(tensor):
    kernel = _kernels.get(KIND, _kernels["endless"])
    pointer = ctypes.c_uint64(tensor.data_ptr())
    parameters = (ctypes.c_void_p * 1)(ctypes.cast(ctypes.pointer(pointer), ctypes.c_void_p))
    threads = 4096 if KIND == "bad_launch" else 32
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    _must(cuda().cuLaunchKernel(kernel, 1, 1, 1, threads, 1, 1, 0, stream, parameters, None))


def _must(code):
    if code:
        raise RuntimeError(f"CUDA driver error {{code}}")
"""

PTX = """
.version 7.8
.target sm_80
.address_size 64

.visible .entry illegal_address(.param .u64 p) {
  .reg .u64 %a;
  .reg .u32 %v;
  mov.u64 %a, 16384;
  mov.u32 %v, 7;
  st.global.u32 [%a], %v;
  ret;
}

.visible .entry misaligned(.param .u64 p) {
  .reg .u64 %a;
  .reg .u32 %v;
  ld.param.u64 %a, [p];
  add.u64 %a, %a, 1;
  ld.volatile.global.u32 %v, [%a];
  ret;
}

.visible .entry launch_failure(.param .u64 p) {
  trap;
}

.visible .entry endless(.param .u64 p) {
  .reg .u64 %a;
  .reg .u32 %v;
  ld.param.u64 %a, [p];
AGAIN:
  ld.volatile.global.u32 %v, [%a];
  bra AGAIN;
}
"""


def chosen(count: int) -> list[tuple[str, int]]:
    """So many kinds with the call at which they do harm, the first and the third in turn.

    Each kind comes up about equally often, but the endless ones, which cost a deadline each, at most twice.
    """
    found: list[tuple[str, int]] = []
    for turn in range(count):
        for kind, status in EXPECTED.items():
            if len(found) < count and (status is not Status.TIMEOUT or turn < 2):
                found.append((kind, 1 + 2 * (turn % 2)))
    return found


def expected(kind: str, at_call: int) -> Status:
    """The status that names a fault rightly."""
    return EXPECTED[kind] if at_call == 1 else WRONG_LATER.get(kind, EXPECTED[kind])


def faulty(variant: Variant, kind: str, at_call: int = 1) -> Variant:
    """The variant with a fault, under the key ``KEY+kind``.

    Args:
        variant: A variant in Python (also Triton, CuTe DSL).
        kind: One of EXPECTED.
        at_call: The first call that does harm.

    Raises:
        ValueError: The kind is unknown.
    """
    if kind not in EXPECTED:
        raise ValueError(f"unknown fault {kind!r}; known are {', '.join(EXPECTED)}")
    file, _, symbol = variant.entry_point.partition("::")
    path = Path(file)
    inner = path.with_name(f"{path.stem}_unharmed{path.suffix}")
    wrapper = _WRAPPER.format(inner=inner.stem, symbol=symbol, kind=kind, at_call=at_call, ptx=PTX)
    sources = {**variant.sources, file: wrapper, str(inner): variant.sources[file]}
    return replace(variant, key=f"{variant.key}+{kind}", sources=sources)
