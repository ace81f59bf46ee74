"""Mistakes that kernels make, planted into right outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from workers.judge.outputs.rules import Kind
from workers.judge.outputs.truth import Truth

Mistake = Callable[[Any, Truth], Any]
"""From a right output (a copy) to a wrong one; None where the mistake cannot be made."""


def _off_by_one(y: Any, truth: Truth) -> Any:
    """Whole numbers one higher, floats one place further."""
    if not y.is_floating_point():
        return ~y if y.dtype is torch.bool else y + 1
    return y.roll(1, -1) if y.dim() and y.shape[-1] > 1 else None


def _row(y: Any, truth: Truth) -> Any:
    """The last row is the one before it."""
    if not y.dim() or y.shape[0] < 2:
        return None
    y[-1] = y[-2]
    return y


def _head(y: Any, truth: Truth) -> Any:
    """The last head is the one before it."""
    if y.dim() < 3 or y.shape[1] < 2:
        return None
    y[:, -1] = y[:, -2]
    return y


def _transposed(y: Any, truth: Truth) -> Any:
    """The last two axes exchanged in memory."""
    return y.transpose(-1, -2).reshape(y.shape) if y.dim() > 1 and min(y.shape[-2:]) > 1 else None


def _constant(y: Any, truth: Truth) -> Any:
    """Everywhere the first number."""
    y[...] = y.flatten()[0].clone()
    return y


def _nan(y: Any, truth: Truth) -> Any:
    """One number is NaN."""
    if not y.is_floating_point():
        return None
    y.view(-1)[_place(y, truth)] = torch.nan
    return y


def _minus_infinity(y: Any, truth: Truth) -> Any:
    """-inf one place further, or in a place where there is none."""
    if not y.is_floating_point() or y.dtype is torch.float8_e4m3fn:
        return None
    flat = y.view(-1)
    if bool(torch.isneginf(flat.float()).any()) and y.dim() > 1:
        return y.roll(1, 0)
    flat[_place(y, truth)] = -torch.inf
    return y


def _place(y: Any, truth: Truth) -> int:
    """Of an element that counts and is finite."""
    usable = torch.isfinite(y.float().view(-1))
    if truth.counted is not None:
        usable &= truth.counted.reshape(-1)
    places = usable.nonzero().view(-1)
    return int(places[len(places) // 2]) if len(places) else 0


def _fewer_bits(y: Any, truth: Truth) -> Any:
    """Rounded to so few bits of mantissa that more of the numbers are out of tolerance than may be."""
    if truth.rule.kind is Kind.STEPS and y.is_floating_point():
        return (y.view(torch.uint8) & 0xFE).view(y.dtype)
    if truth.rule.kind is not Kind.CLOSE:
        return None
    t = truth.rule.tolerance
    numbers = torch.linspace(1, 2, 4097)
    for bits in range(10, -1, -1):
        rounded = _rounded(numbers, bits)
        if float((((rounded - numbers).abs() / numbers) > t.rtol).float().mean()) > 2 * (1 - t.required_matched_ratio):
            return _rounded(y.float(), bits).to(y.dtype)
    return None


def _rounded(values: Any, bits: int) -> Any:
    mantissa, exponent = torch.frexp(values)
    steps = 2 ** (bits + 1)
    return torch.where(torch.isfinite(values), torch.ldexp((mantissa * steps).round() / steps, exponent), values)


OF_OUTPUT: dict[str, Mistake] = {
    "off by one index": _off_by_one,
    "one row wrong": _row,
    "one head wrong": _head,
    "transposed": _transposed,
    "zeros": lambda y, _: y.zero_(),
    "constant": _constant,
    "NaN": _nan,
    "-inf misplaced": _minus_infinity,
    "rounded to fewer bits": _fewer_bits,
}
"""Each is planted into one output after the other."""

OF_CANDIDATE = (
    "one expert wrong",
    "last token unwritten",
    "stale output of the call before",
    "inputs written",
    "order of outputs swapped",
    "right only the first time",
    "right only for one size",
)
"""These are what a candidate does; see :mod:`benchmarks.judge_examination.examine`."""
