"""Whether a candidate computes what the reference computes, does it twice, and leaves its inputs alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from workers import fib
from workers.device import Device
from workers.records import Status, Tolerance

_DIGEST_BLOCK = 1 << 18
"""Elements (int64) of one block of a digest: 2 MiB, so temporaries stay small next to any tensor."""

_POISON = (0xA5, 0x5A)
"""Byte patterns for integer outputs, in turn from run to run. Floating-point outputs get NaN."""


@dataclass(frozen=True)
class Verdict:
    """Result of a check; error figures are those of the worst output."""

    status: Status
    message: str = ""
    max_abs_error: float | None = None
    max_rel_error: float | None = None
    matched_ratio: float | None = None


@dataclass(frozen=True)
class Candidate:
    """A loaded variant's entry point with how it gives its outputs."""

    function: Callable[..., Any]
    destination_passing: bool


def run_once(candidate: Candidate, definition: Any, inputs: Sequence[Any], device: Device) -> list[Any]:
    """Outputs of one call. Destination-passing candidates get poisoned outputs, so what they do not write shows.

    Raises:
        Exception: Whatever the candidate raises, also asynchronously.
    """
    if candidate.destination_passing:
        outputs = fib.allocate_outputs(definition, inputs, device.name)
        poison(outputs, 0)
        candidate.function(*inputs, *outputs)
        device.synchronize()
        return outputs
    result = candidate.function(*inputs)
    device.synchronize()
    return fib.normalize(definition, result, device.name)


def poison(outputs: Sequence[Any], attempt: int) -> None:
    """Fill output tensors with what no kernel computes: NaN, for integers a byte pattern, for booleans alternating."""
    import torch

    pattern = _POISON[attempt % len(_POISON)]
    for tensor in outputs:
        if tensor.dtype is torch.bool:
            tensor.fill_(attempt % 2 == 0)
        elif tensor.is_floating_point():
            # All bits set is a NaN in every floating-point format that has one, fp8 e4m3fn included.
            tensor.view(torch.uint8).fill_(0xFF) if tensor.dim() else tensor.fill_(math.nan)
        else:
            tensor.view(torch.uint8).fill_(pattern) if tensor.dim() else tensor.fill_(pattern & 0x7F)


def compare(outputs: Sequence[Any], expected: Sequence[Any], rule: Tolerance) -> Verdict:
    """Outputs against the reference's, by flashinfer-bench's order of tests: shape, dtype, not finite, tolerance."""
    import torch

    worst_abs = worst_rel = 0.0
    matched = 1.0
    for index, (output, reference) in enumerate(zip(outputs, expected, strict=True)):
        if tuple(output.shape) != tuple(reference.shape):
            return Verdict(
                Status.INCORRECT_SHAPE, f"output {index} has shape {list(output.shape)}, not {list(reference.shape)}"
            )
        if output.dtype != reference.dtype:
            return Verdict(Status.INCORRECT_DTYPE, f"output {index} is {output.dtype}, not {reference.dtype}")
        bad = int((~torch.isfinite(output.to(torch.float32))).sum().item())
        if bad:
            return Verdict(
                Status.INCORRECT_NUMERICAL,
                f"output {index}: {bad} of {output.numel()} elements are not finite",
                math.inf,
                math.inf,
                1.0 - bad / output.numel(),
            )
        figures = fib.error_figures(output, reference, rule)
        worst_abs, worst_rel, matched = max(worst_abs, figures[0]), max(worst_rel, figures[1]), min(matched, figures[2])
    if matched < rule.required_matched_ratio:
        message = (
            f"{matched:.4%} of the elements are within rtol {rule.rtol:g} or atol {rule.atol:g}, "
            f"{rule.required_matched_ratio:.4%} are required; largest absolute error {worst_abs:.4g}"
        )
        return Verdict(Status.INCORRECT_NUMERICAL, message, worst_abs, worst_rel, matched)
    return Verdict(Status.PASSED, "", worst_abs, worst_rel, matched)


def why_degenerate(expected: Sequence[Any], rule: Tolerance) -> str | None:
    """Why nothing can be judged by these reference outputs, None if they are good.

    Refused are outputs that are not finite, floating-point outputs of more than one element that are constant, and
    outputs so small that all zeros would be accepted.
    """
    import torch

    for index, reference in enumerate(expected):
        values = reference.to(torch.float32)
        if not bool(torch.isfinite(values).all()):
            return f"reference output {index} is not finite"
        if not reference.is_floating_point():
            continue
        if reference.numel() > 1 and bool((values == values.flatten()[0]).all()):
            return f"reference output {index} is constant ({values.flatten()[0].item():g})"
        if reference.numel() and compare([torch.zeros_like(reference)], [reference], rule).status is Status.PASSED:
            return f"reference output {index} is so small that zeros would pass (atol {rule.atol:g})"
    return None


def digest(value: Any) -> Any:
    """Fingerprint of an input that changes when any byte does: for tensors one weighted sum for each block."""
    import torch

    if not isinstance(value, torch.Tensor):
        return value
    data = value.detach().contiguous().reshape(-1).view(torch.uint8) if value.numel() else value.new_empty(0)
    words = data.numel() // 8
    sums = [data[8 * words :].to(torch.int64).sum()]
    if words:
        body = data[: 8 * words].view(torch.int64)
        weights = _weights(body.device)
        for start in range(0, words, _DIGEST_BLOCK):
            block = body[start : start + _DIGEST_BLOCK]
            # Odd weights modulo 2**64: every bit of every word counts, and two words cannot change places.
            sums.append((block * weights[: block.numel()]).sum())
    return torch.stack(sums)


def same_digests(first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Whether two lists of digests agree."""
    import torch

    for a, b in zip(first, second, strict=True):
        if isinstance(a, torch.Tensor) != isinstance(b, torch.Tensor):
            return False
        if not (torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b):
            return False
    return True


_WEIGHTS: dict[Any, Any] = {}


def _weights(device: Any) -> Any:
    import torch

    if device not in _WEIGHTS:
        index = torch.arange(_DIGEST_BLOCK, dtype=torch.int64, device=device)
        # Source: Knuth, The Art of Computer Programming vol. 3, 6.4, multiplicative hashing by the golden ratio.
        _WEIGHTS[device] = (index * -7046029254386353131) | 1
    return _WEIGHTS[device]
