"""An input on which a variant is judged without a GPU, and what its kernels must make of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np


class StageError(Exception):
    """A kernel left something wrong; the message has the tensor, the element and both values."""


@dataclass(frozen=True)
class EmulatedCase:
    """One call.

    Args:
        name: Of the input.
        size: On the space's size axis.
        inputs: Name -> array in its memory layout.
        check: Called with a kernel's short name and all tensors' bytes when the kernel has ended.
        beside: Short names of kernels that share their work with the kernel before: they start beside it without
            waiting, and may not end before it.
        fed: Short names of kernels that use what the kernel before makes while that still runs: both are executed at
            the same time, and checked when both have ended.

    Raises:
        StageError: From ``check``: the kernel left something wrong.
    """

    name: str
    size: int
    inputs: Mapping[str, np.ndarray] = field(repr=False)
    check: Callable[[str, Mapping[str, np.ndarray]], None] = field(repr=False)
    offset: int = 0
    scaling: float = 2.5
    beside: frozenset[str] = frozenset()
    fed: frozenset[str] = frozenset()
