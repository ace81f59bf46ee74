"""What is in tensors: copies, poison, and digests that change when any byte does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

_DIGEST_ROW = 1 << 11
"""Words (int64) in a row of a digest: 16 KiB."""

_POISON = (0xA5, 0x5A)
"""Byte patterns for integer outputs, a different one for each run in turn. Floating-point outputs get NaN."""


def copies_of(inputs: Sequence[Any]) -> list[Any]:
    """Copies of inputs, which may be overwritten."""
    import torch

    return [value.clone() if isinstance(value, torch.Tensor) else value for value in inputs]


def restore(copies: Sequence[Any], originals: Sequence[Any]) -> None:
    """Make copies equal to their originals again."""
    import torch

    for copy, original in zip(copies, originals, strict=True):
        if isinstance(original, torch.Tensor):
            copy.copy_(original)


def poison(outputs: Sequence[Any], attempt: int, finite: bool = False) -> None:
    """Fill output tensors with what no kernel computes: NaN (or a number, if ``finite``), for integers a byte pattern,
    for booleans alternating."""
    import torch

    pattern = _POISON[attempt % len(_POISON)]
    for tensor in outputs:
        for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
            if stride == 0 and size > 1:  # an expanded result: all elements share one place in memory
                tensor = tensor.narrow(dim, 0, 1)
        if tensor.dtype is torch.bool:
            tensor.fill_(attempt % 2 == 0)
        elif tensor.dim() and tensor.stride(-1) == 1:
            # All bits set is a NaN in every floating-point format that has one, fp8 e4m3fn included.
            tensor.view(torch.uint8).fill_(0xFF if tensor.is_floating_point() and not finite else pattern)
        elif tensor.is_floating_point():
            tensor.fill_(pattern if finite else math.nan)
        else:
            tensor.fill_(int.from_bytes([pattern] * tensor.element_size(), "little", signed=tensor.dtype.is_signed))


def digest(value: Any, thorough: bool = True) -> Any:
    """Fingerprint of an input that changes when any byte does. Does not wait for the device.

    A tensor is treated as rows of 16 KiB: the digest holds the sums of all rows and, if ``thorough``, of all columns,
    and the remainder itself. Column sums detect two words that change places, at the cost of a second pass over the
    memory.
    """
    import torch

    if not isinstance(value, torch.Tensor):
        return value
    return torch.cat([part.to(torch.int64) for part in _parts(value, thorough)])


def _parts(tensor: Any, thorough: bool) -> list[Any]:
    """Its digest: the remainder as bytes, then sums as int64."""
    import torch

    data = _bytes_of(tensor)
    whole = data.numel() // (8 * _DIGEST_ROW) * (8 * _DIGEST_ROW)
    if not whole:
        return [data]
    rows = data[:whole].view(torch.int64).view(-1, _DIGEST_ROW)
    sums = [rows.sum(1), rows.sum(0)] if thorough else [rows.sum(1)]
    return [data[whole:], *sums] if whole < data.numel() else sums


def _bytes_of(tensor: Any) -> Any:
    """Its elements as bytes, in their order."""
    import torch

    if not tensor.numel():
        return tensor.new_empty(0, dtype=torch.uint8)
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


class Seal:
    """What is known of several values, to find out later whether any has changed.

    The digests of all tensors lie in one piece: every launch takes microseconds, and a workload has many tensors.

    Args:
        values: Tensors of one device; anything else is left out.
        thorough: As for :func:`digest`.
    """

    def __init__(self, values: Sequence[Any], thorough: bool = True) -> None:
        self._thorough = thorough
        self._known = self._read(values)

    def holds(self, values: Sequence[Any]) -> list[Any]:
        """A boolean on the device that says whether the same values are unchanged; none without tensors. Does not
        wait."""
        if self._known is None:
            return []
        now = self._read(values)
        # A candidate may have resized its input.
        same = now is not None and now.shape == self._known.shape
        return [(now == self._known).all() if same else self._known.new_zeros(()).bool()]

    def _read(self, values: Sequence[Any]) -> Any:
        import torch

        tensors = [value for value in values if isinstance(value, torch.Tensor)]
        parts = [part.view(torch.uint8) for value in tensors for part in _parts(value, self._thorough)]
        return torch.cat(parts) if parts else None


def all_true(found: Sequence[Any]) -> bool:
    """Whether all booleans on the device are true; waits for them."""
    import torch

    return bool(torch.stack(list(found)).all()) if found else True


def same_digests(first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Whether two lists of digests agree."""
    import torch

    for a, b in zip(first, second, strict=True):
        if isinstance(a, torch.Tensor) != isinstance(b, torch.Tensor):
            return False
        if not (torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b):
            return False
    return True
