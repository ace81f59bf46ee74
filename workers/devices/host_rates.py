"""Measures what this machine's memory and cores do at most, for the roofline: a CPU has no data sheet to ask."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

_BUDGET_S = 0.15
"""Seconds for each rate. The best of several calls counts: other load makes a call slower, nothing makes it faster."""
_MIN_CALLS = 3
_SIDE = 512
"""Of the matrices that are multiplied: large enough for all cores, small enough for their caches."""


def measure(cache_bytes: int) -> Mapping[str, float]:
    """The rates of torch's copy and of its matrix product, on all threads that torch uses.

    Args:
        cache_bytes: Size of the last-level cache; what is copied is four times as large.

    Returns:
        ``copy_bytes_per_us``: bytes read and written. ``multiply_add_flop_per_us``: a multiplication and an addition
        count as two; of float32 and bfloat16 the faster one.
    """
    import torch

    source = torch.ones(max(4 * cache_bytes, 64 << 20) // 2 // 4, dtype=torch.float32)
    target = torch.empty_like(source)
    copied = 2 * source.numel() * source.element_size()
    flop = 0.0
    for dtype in (torch.float32, torch.bfloat16):
        left = torch.ones(_SIDE, _SIDE, dtype=dtype)
        out = torch.empty_like(left)
        flop = max(flop, 2 * _SIDE**3 / _best_us(lambda a=left, o=out: torch.mm(a, a, out=o)))  # type: ignore[misc]
    return {
        "copy_bytes_per_us": copied / _best_us(lambda: target.copy_(source)),
        "multiply_add_flop_per_us": flop,
    }


def _best_us(call: Callable[[], object]) -> float:
    """Microseconds of the fastest of several calls, after one that does not count."""
    call()
    best, calls, ends = float("inf"), 0, time.perf_counter() + _BUDGET_S
    while calls < _MIN_CALLS or time.perf_counter() < ends:
        began = time.perf_counter_ns()
        call()
        best = min(best, (time.perf_counter_ns() - began) / 1e3)
        calls += 1
    return best
