"""Machine code of a kernel's segments."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm

from .floats import HELPERS
from .segment import Segment

Function = Callable[[int], None]
_PROTOTYPE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def _machine() -> Any:
    """LLVM's description of this processor; each engine owns one."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    features = llvm.get_host_cpu_features().flatten()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=0, jit=True)


class Compiled:
    """Functions by segment.

    Args:
        segments: Of one kernel.
        is_read_elsewhere: Whether code outside a segment reads a register.
    """

    def __init__(self, segments: list[Segment], is_read_elsewhere: Callable[[Segment, str], bool]):
        texts = [s.text(functools.partial(is_read_elsewhere, s)) for s in segments]
        declared = sorted({line for s in segments for line in s.intrinsics})
        module = llvm.parse_assembly("\n".join([HELPERS, *declared, *texts]))
        machine = _machine()
        module.triple, module.data_layout = machine.triple, str(machine.target_data)
        self._engine = llvm.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()
        self.functions: list[Function] = [_PROTOTYPE(self._engine.get_function_address(s.name)) for s in segments]
