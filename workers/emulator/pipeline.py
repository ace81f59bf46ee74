"""A call of a Solution, kernel by kernel, on emulated global memory."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .errors import EmulatorError
from .host.launches import Call
from .machine import Launch, run, run_beside
from .memory import GlobalMemory
from .program import Program
from .ptx import read

_programs: dict[str, Program] = {}
"""Prepared kernels by a hash of their text: many configs have the same routing kernel."""
_KEPT = 24


class KernelError(EmulatorError):
    """A kernel failed; ``kernel`` is its name."""

    def __init__(self, kernel: str, message: str):
        super().__init__(f"{kernel}: {message}")
        self.kernel, self.message = kernel, message


class Module:
    """The kernels of a compiled host function.

    Args:
        path: Its PTX.
    """

    def __init__(self, path: Path):
        self.kernels = read(path.read_text())

    def program(self, name: str) -> Program:
        """The kernel in executable form, from a cache of recently used ones."""
        kernel = self.kernels[name]
        text = repr((kernel.parameters, kernel.labels, [(i.opcode, i.operands, i.guard) for i in kernel.code]))
        key = hashlib.sha256(text.encode()).hexdigest()
        if key not in _programs:
            while len(_programs) >= _KEPT:
                del _programs[next(iter(_programs))]
            _programs[key] = Program(kernel)
        return _programs[key]


def steps(
    module: Module,
    call: Call,
    memory: GlobalMemory,
    seed: int = 0,
    beside: frozenset[str] = frozenset(),
    fed: frozenset[str] = frozenset(),
) -> Iterator[Launch]:
    """Execute the kernels of a call in order and yield each launch once it has ended.

    Kernels named in ``beside`` share their work with the previous one, those in ``fed`` take over from it while both
    run, which they do here (EmulatedCase).

    Raises:
        KernelError: A kernel hangs, corrupts something or has an unknown instruction.
    """
    number = 0
    while number < len(call.launches):
        launches = call.launches[number : number + 2]
        if short_name(launches[-1].kernel) not in fed:
            launches = launches[:1]
        names = [short_name(launch.kernel) for launch in launches]
        memory.next_kernel(launches[0].pdl, names[0] in beside)
        programs = [(module.program(launch.kernel), launch) for launch in launches]
        try:
            if len(programs) == 1:
                run(*programs[0], memory, seed + 1000 * number)
            else:
                run_beside(programs, memory, seed + 1000 * number)
        except EmulatorError as error:
            raise KernelError(" beside ".join(reversed(names)), str(error)) from error
        yield from launches
        number += len(launches)


def short_name(kernel: str) -> str:
    """The part of a kernel's name that people use: ``moe_gemm_1``, ``routing``."""
    if own := re.match(r"moe_(gemm_[12](_many|_small)?|act_quant)(?![a-z])", kernel):
        return own[0]
    found = kernel.removeprefix("kernel_cutlass_").partition("_sm_")[2].lstrip("0123456789a")
    for word in ("routing", "permute", "combineFinalize", "combineZero", "combineCast"):
        if found.lower().startswith(word.lower()) or word in kernel:
            return word
    return kernel[:60]


def fresh_memory(call: Call, contents: dict[str, np.ndarray]) -> GlobalMemory:
    """Memory with the given inputs; all else is poison, except for what must start as zeros."""
    zeros = {"barrier": np.zeros(4, np.uint8)} if "barrier" in call.memory else {}
    return GlobalMemory.of(call.memory, {**zeros, **contents})
