"""Whether a candidate computes what the reference computes, does it twice, and leaves its inputs alone."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from workers.devices.device import CANDIDATE, Device
from workers.fib import adapter as fib
from workers.records import Status, Tolerance

_DIGEST_ROW = 1 << 11
"""Words (int64) in a row of a digest: 16 KiB."""

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

    def errors(self) -> dict[str, Any]:
        """The error figures, by the name that they have in a Measurement too."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("status", "message")}


@dataclass
class Candidate:
    """A loaded variant's entry point with how it gives its outputs. ``function`` changes when it is loaded again.

    ``was_called``: its code is on the device; a first call's time is that of loading.
    """

    function: Callable[..., Any]
    destination_passing: bool
    was_called: bool = False


def run_once(candidate: Candidate, definition: Any, inputs: Sequence[Any], device: Device) -> list[Any]:
    """Outputs of one call, which may still be running. Destination-passing candidates get poisoned outputs, so what
    they do not write shows.

    Raises:
        Exception: Whatever the candidate raises.
    """
    outputs: tuple[Any, ...] = ()
    if candidate.destination_passing:
        outputs = tuple(fib.allocate_outputs(definition, inputs, device.name))
        poison(outputs, 0)
    with device.span(CANDIDATE) if candidate.was_called else contextlib.nullcontext():
        result = candidate.function(*inputs, *outputs)
    candidate.was_called = True
    return list(outputs) if candidate.destination_passing else fib.normalize(definition, result, device.name)


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


@dataclass(frozen=True)
class Errors:
    """Error figures of all outputs, computed on the device and not yet waited for."""

    figures: Any
    """float64 [outputs, 4]: elements that are not finite, elements out of tolerance, largest absolute error, largest
    relative error."""
    sizes: tuple[int, ...]
    rule: Tolerance

    def verdict(self) -> Verdict:
        """Waits for the figures. By flashinfer-bench's order of tests: not finite, then tolerance."""
        worst_abs = worst_rel = 0.0
        matched = 1.0
        for index, (size, row) in enumerate(zip(self.sizes, self.figures.tolist(), strict=True)):
            bad, exceeding, absolute, relative = row
            if bad:
                return Verdict(
                    Status.INCORRECT_NUMERICAL,
                    f"output {index}: {int(bad)} of {size} elements are not finite",
                    math.inf,
                    math.inf,
                    1.0 - bad / size,
                )
            worst_abs, worst_rel = max(worst_abs, absolute), max(worst_rel, relative)
            matched = min(matched, 1.0 - exceeding / size if size else 1.0)
        rule = self.rule
        if matched < rule.required_matched_ratio:
            message = (
                f"{matched:.4%} of the elements are within rtol {rule.rtol:g} or atol {rule.atol:g}, "
                f"{rule.required_matched_ratio:.4%} are required; largest absolute error {worst_abs:.4g}"
            )
            return Verdict(Status.INCORRECT_NUMERICAL, message, worst_abs, worst_rel, matched)
        return Verdict(Status.PASSED, "", worst_abs, worst_rel, matched)


@dataclass(frozen=True)
class Known:
    """A verdict that needs no figures."""

    found: Verdict

    def verdict(self) -> Verdict:
        """The verdict, which was known without comparing values."""
        return self.found


def begin_compare(outputs: Sequence[Any], expected: Sequence[Any], rule: Tolerance) -> Errors | Known:
    """Start comparing outputs with the reference's. Shape and dtype are known at once, the rest is left to the device.

    Source: flashinfer-bench 0.1.2, bench/utils.py (compute_error_stats) for the figures, which are the same.
    """
    import torch

    rows, sizes = [], []
    for index, (output, reference) in enumerate(zip(outputs, expected, strict=True)):
        if tuple(output.shape) != tuple(reference.shape):
            text = f"output {index} has shape {list(output.shape)}, not {list(reference.shape)}"
            return Known(Verdict(Status.INCORRECT_SHAPE, text))
        if output.dtype != reference.dtype:
            text = f"output {index} is {output.dtype}, not {reference.dtype}"
            return Known(Verdict(Status.INCORRECT_DTYPE, text))
        sizes.append(output.numel())
        if not output.numel():
            rows.append(torch.zeros(4, dtype=torch.float64, device=output.device))
            continue
        x, y = output.to(torch.float32), reference.to(torch.float32)
        bad = (~torch.isfinite(x)).sum()
        error = torch.abs(x - y)
        relative = error / (torch.abs(y) + 1e-8)
        exceeding = ((error > rule.atol) & (relative > rule.rtol)).sum()
        rows.append(torch.stack([v.to(torch.float64) for v in (bad, exceeding, error.max(), relative.max())]))
    return Errors(torch.stack(rows), tuple(sizes), rule)


def compare(outputs: Sequence[Any], expected: Sequence[Any], rule: Tolerance) -> Verdict:
    """Outputs against the reference's: shape, dtype, not finite, tolerance."""
    return begin_compare(outputs, expected, rule).verdict()


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


def digest(value: Any, thorough: bool = True) -> Any:
    """Fingerprint of an input that changes when any byte does. Does not wait for the device.

    A tensor is seen as rows of 16 KiB: the sums of all rows and, if ``thorough``, of all columns; what is left over is
    kept as it is. Columns make two words that change places visible, for a second pass over the memory.
    """
    import torch

    if not isinstance(value, torch.Tensor):
        return value
    data = value.detach().contiguous().reshape(-1).view(torch.uint8) if value.numel() else value.new_empty(0)
    whole = data.numel() // (8 * _DIGEST_ROW) * (8 * _DIGEST_ROW)
    parts = [data[whole:].to(torch.int64)]
    if whole:
        rows = data[:whole].view(torch.int64).view(-1, _DIGEST_ROW)
        parts += [rows.sum(1), rows.sum(0)] if thorough else [rows.sum(1)]
    return torch.cat(parts)


def unchanged(values: Sequence[Any], digests: Sequence[Any], thorough: bool = True) -> list[Any]:
    """For each tensor a boolean on its device, whether its digest is still the same. Does not wait."""
    import torch

    found = []
    for value, known in zip(values, digests, strict=True):
        if isinstance(value, torch.Tensor):
            now = digest(value, thorough)
            # A candidate may have resized its input.
            found.append((now == known).all() if now.shape == known.shape else known.new_zeros((), dtype=torch.bool))
    return found


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
