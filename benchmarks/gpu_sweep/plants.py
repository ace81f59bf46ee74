"""Planted faults: variants that misbehave in one known way each, and the statuses that say so.

A plant is a Python Solution of one file beside the definition's reference. It fails when it is called, apart from those
whose name begins with ``load_``; kernels come as CUDA C++ through NVRTC. ``after`` is the call at which it starts to
misbehave: a fault may well wait until it is timed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from workers.records import Status, Variant

_HEAD = '''
import ctypes, os, time
import torch
from .reference import run as reference

calls = 0


def kernel(body, threads=32):
    """Launch one block of a CUDA kernel that gets the output's address."""
    source = 'extern "C" __global__ void planted(float* out, long long n) {' + body + "}"
    compiled = torch.cuda._compile_kernel(source, "planted")
    return lambda out: compiled(grid=(1, 1, 1), block=(threads, 1, 1), args=[out, out.numel()])


def right(args):
    args[-1].copy_(reference(*args[:-1]))


def misbehave(args):
    out = args[-1]
    %s


def run(*args):
    global calls
    calls += 1
    if calls >= %d:
        misbehave(args)
    else:
        right(args)
'''

_WRONG = (Status.INCORRECT_NUMERICAL, Status.NOT_REPEATABLE)
_DEAD = (Status.CRASHED, Status.RUNTIME_ERROR)
_HANG = (Status.TIMEOUT,)


@dataclass(frozen=True)
class Fault:
    """One way to misbehave. ``expected`` are the statuses that name it correctly; ``gpu`` needs a CUDA device."""

    name: str
    body: str
    expected: tuple[Status, ...]
    gpu: bool = False
    after: int = 1

    def main(self) -> str:
        """The plant's ``main.py``."""
        if self.name.startswith("load_"):
            return self.body
        return _HEAD % (self.body.replace("\n", "\n    "), self.after)


FAULTS = (
    # Device faults: each leaves a sticky error, and the process is of no use afterwards.
    Fault("illegal_address", "kernel('out[1LL << 40] = 1.f;')(out)", _DEAD, gpu=True),
    Fault("misaligned_address", "kernel('*(double*)((char*)out + 1) = 1.0;')(out)", _DEAD, gpu=True),
    Fault("trap", "kernel('asm volatile(\"trap;\");')(out)", _DEAD, gpu=True),
    Fault(
        "hang_on_device", "kernel('while (true) __nanosleep(1000);')(out); torch.cuda.synchronize()", _HANG, gpu=True
    ),
    Fault("illegal_address_later", "kernel('out[1LL << 40] = 1.f;')(out)", _DEAD, gpu=True, after=2),
    # Errors that CUDA reports and survives.
    Fault("launch_failure", "kernel('out[0] = 1.f;', threads=2048)(out)", _DEAD, gpu=True),
    Fault(
        "out_of_memory", "held = [torch.empty(64 << 30, dtype=torch.uint8, device=out.device) for _ in range(8)]",
        _DEAD, gpu=True,
    ),
    # Host faults.
    Fault("segmentation_fault", "ctypes.string_at(1)", (Status.CRASHED,)),
    Fault("exit", "os._exit(0)", (Status.CRASHED,)),
    Fault("abort", "os.abort()", (Status.CRASHED,)),
    Fault("hang_on_host", "while True: time.sleep(0.01)", _HANG),
    Fault("exception", "raise ValueError('planted')", (Status.RUNTIME_ERROR,)),
    Fault(
        "unpicklable_exception", "class Planted(Exception):\n    hook = lambda: None\nraise Planted(lambda: None)",
        (Status.RUNTIME_ERROR,),
    ),
    Fault("load_import_error", "import no_such_module_anywhere\n", (Status.RUNTIME_ERROR, Status.COMPILE_ERROR)),
    Fault("load_no_entry_point", "walk = 1\n", (Status.RUNTIME_ERROR, Status.COMPILE_ERROR)),
    # Wrong answers.
    Fault("wrong", "right(args); out.mul_(3)", _WRONG),
    Fault("nan", "out.fill_(float('nan'))", _WRONG),
    Fault("not_written", "pass", _WRONG),
    Fault("wrong_later", "out.fill_(7)", _WRONG, after=2),
    Fault(
        "inputs_modified", "args[2].view(torch.uint8).flatten()[:64].fill_(0x38); right(args)",
        (Status.INPUTS_MODIFIED,),
    ),
)  # fmt: skip


def fitting(target: str) -> tuple[Fault, ...]:
    """Those that can happen on a target."""
    return tuple(f for f in FAULTS if target != "cpu" or not f.gpu)


def faults(target: str, count: int) -> list[Fault]:
    """``count`` faults, every kind about equally often; hangs, which cost a deadline each, at most twice."""
    chosen: list[Fault] = []
    for fault in islice(cycle(fitting(target)), count * 4):
        hangs = sum(f.name == fault.name for f in chosen)
        if len(chosen) < count and not (fault.expected == _HANG and hangs >= 2):
            chosen.append(fault)
    return chosen


def plant(fault: Fault, definition: Mapping[str, Any], target: str, key: str) -> Variant:
    """The variant. Its content depends on ``key``, so that no two plants share an artifact."""
    return Variant(
        key=key,
        definition=str(definition["name"]),
        sources={"main.py": f"# {key}\n{fault.main()}", "reference.py": str(definition["reference"])},
        entry_point="main.py::run",
        language="python",
        target=target,
    )


WRONG_SOLUTIONS = ("wrong", "nan", "exception")
"""Faults that stock flashinfer-bench has a name for and survives: they are judged beside good variants."""


def by_name(name: str) -> Fault:
    """The fault of that name."""
    return next(f for f in FAULTS if f.name == name)
