"""The table of instructions that touch memory, barriers, other lanes or the tensor cores."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UnknownInstructionError
from ..ptx import Instruction

if TYPE_CHECKING:
    from ..machine import CtaCluster
    from ..warp import Warp

Handler = Callable[["CtaCluster", "Warp", Instruction, np.ndarray], None]
_HANDLERS: dict[str, Handler] = {}


def operation(*names: str) -> Callable[[Handler], Handler]:
    """Decorator: register the handler of an instruction, named as ``ld`` or ``mbarrier.init``."""

    def add(function: Handler) -> Handler:
        _HANDLERS.update(dict.fromkeys(names, function))
        return function

    return add


def handler_for(i: Instruction) -> Handler:
    """The handler of an instruction.

    Raises:
        UnknownInstructionError: It has none.
    """
    from . import accesses, barriers, block_scales, copies, lanes, tcgen05, wgmma  # noqa: F401 - they fill the table

    second = i.parts[1].partition("::")[0] if len(i.parts) > 1 else ""
    found = _HANDLERS.get(f"{i.parts[0]}.{second}") or _HANDLERS.get(i.parts[0])
    if found is None:
        raise UnknownInstructionError(f"line {i.line}: {i}")
    return found
