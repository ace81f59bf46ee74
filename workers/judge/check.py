"""Checks that a candidate computes what the reference computes, does so twice, and leaves its inputs unchanged."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from workers.devices.device import CANDIDATE, Device
from workers.fib import adapter as fib
from workers.judge.rules import STEPS_SHARE, Kind
from workers.records import Status

if TYPE_CHECKING:
    from workers.judge.truth import Truth

_DIGEST_ROW = 1 << 11
"""Words (int64) in a row of a digest: 16 KiB."""

_POISON = (0xA5, 0x5A)
"""Byte patterns for integer outputs, a different one for each run in turn. Floating-point outputs get NaN."""


@dataclass(frozen=True)
class Verdict:
    """The result of a check; error figures are those of the worst output."""

    status: Status
    message: str = ""
    max_abs_error: float | None = None
    max_rel_error: float | None = None
    matched_ratio: float | None = None

    def errors(self) -> dict[str, Any]:
        """The error figures, by their names in a Measurement."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("status", "message")}


def with_status(verdict: Verdict, status: Status, message: str) -> Verdict:
    """The same figures with another status."""
    return replace(verdict, status=status, message=message)


@dataclass
class Candidate:
    """A loaded variant's entry point and its calling convention. ``function`` changes when it is loaded again.

    ``was_called``: whether its code is on the device, since a first call includes loading. ``is_reference``: whether it
    is the definition's own code; ``writes``: whether that writes to this workload's inputs and therefore gets copies.
    """

    function: Callable[..., Any]
    destination_passing: bool
    was_called: bool = False
    is_reference: bool = False
    writes: bool = False


def run_once(candidate: Candidate, definition: Any, inputs: Sequence[Any], device: Device) -> list[Any]:
    """Outputs of one call, which may still be running. Destination-passing candidates get poisoned outputs, so what
    they do not write shows.

    Raises:
        Exception: Whatever the candidate raises.
    """
    outputs: tuple[Any, ...] = ()
    given = copies_of(inputs) if candidate.writes else inputs
    if candidate.destination_passing:
        outputs = tuple(fib.allocate_outputs(definition, inputs, device.name))
        poison(outputs, 0)
    with device.span(CANDIDATE) if candidate.was_called else contextlib.nullcontext():
        result = candidate.function(*given, *outputs)
    candidate.was_called = True
    return list(outputs) if candidate.destination_passing else fib.normalize(definition, result, device.name)


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


@dataclass(frozen=True)
class Errors:
    """Error figures of all outputs, being computed on the device."""

    figures: Any
    """See :func:`workers.judge.matching.figures`."""
    truths: tuple[Truth, ...]

    def verdict(self) -> Verdict:
        """Wait for the figures. The verdict is that of the worst output, by flashinfer-bench's order of tests: not
        finite, then tolerance."""
        worst_abs = worst_rel = 0.0
        matched = 1.0
        said = ""
        for truth, (bad, wrong, absolute, relative, part) in zip(self.truths, self.figures.tolist(), strict=True):
            size = truth.value.numel()
            name = truth.rule.output
            if bad:
                text = f"output {name}: {int(bad)} of {size} elements are not finite, or are and must not be"
                return Verdict(Status.INCORRECT_NUMERICAL, text, math.inf, math.inf, 1.0 - bad / size)
            worst_abs, worst_rel = max(worst_abs, absolute), max(worst_rel, relative)
            share = 1.0 - wrong / size if size else 1.0
            matched = min(matched, max(0.0, share))
            said = said or _what_is_wrong(truth, wrong, share, absolute, part)
        status = Status.INCORRECT_NUMERICAL if said else Status.PASSED
        return Verdict(status, said, worst_abs, worst_rel, matched)


def _what_is_wrong(truth: Truth, wrong: float, share: float, absolute: float, part: float) -> str:
    """One line about an output that does not match, empty if it matches."""
    rule, output, size = truth.rule, f"output {truth.rule.output}", truth.value.numel()
    if rule.kind is Kind.CLOSE:
        ratio = rule.tolerance.required_matched_ratio
        if share < ratio:
            return (
                f"{output}: {share:.4%} of the elements are within the tolerance ({rule}), {ratio:.4%} are required; "
                f"largest absolute error {absolute:.4g}"
            )
        if part > most_in_a_part(ratio):
            return f"{output}: in one row or run of columns {part:.2%} of the elements are out of tolerance ({rule})"
        return ""
    if wrong:
        what = {
            Kind.STEPS: "are more than one step off",
            Kind.SELECTED: "select something else, or the same twice",
            Kind.DRAWN: "cannot be drawn",
        }.get(rule.kind, "differ")
        return f"{output}: {int(wrong)} of {size} elements {what} ({rule}); largest difference {absolute:.4g}"
    if rule.kind is Kind.STEPS and part > STEPS_SHARE:
        return f"{output}: {part:.2%} of the elements are a step off, {STEPS_SHARE:.2%} may be ({rule})"
    return ""


def most_in_a_part(ratio: float) -> float:
    """Largest share of a part of an output that may be out of tolerance if 1 - ratio of all elements may: twice that,
    but never so much that a whole part could be wrong."""
    return min(2 * (1 - ratio), 1 - ratio / 2)


@dataclass(frozen=True)
class Known:
    """A verdict that needs no figures."""

    found: Verdict

    def verdict(self) -> Verdict:
        """The verdict, which was known without comparing values."""
        return self.found


def begin_compare(outputs: Sequence[Any], truths: Sequence[Truth]) -> Errors | Known:
    """Start comparing outputs with the reference's. Shape and dtype are known at once, the rest later."""
    from workers.judge.matching import figures

    for output, truth in zip(outputs, truths, strict=True):
        reference = truth.value
        if tuple(output.shape) != tuple(reference.shape):
            text = f"output {truth.rule.output} has shape {list(output.shape)}, not {list(reference.shape)}"
            return Known(Verdict(Status.INCORRECT_SHAPE, text))
        if output.dtype != reference.dtype:
            text = f"output {truth.rule.output} is {output.dtype}, not {reference.dtype}"
            return Known(Verdict(Status.INCORRECT_DTYPE, text))
    return Errors(figures(outputs, truths), tuple(truths))


def compare(outputs: Sequence[Any], truths: Sequence[Truth]) -> Verdict:
    """Compare outputs with the reference's: shape, dtype, finiteness, then each by its own rule."""
    return begin_compare(outputs, truths).verdict()


def digest(value: Any, thorough: bool = True) -> Any:
    """Fingerprint of an input that changes when any byte does. Does not wait for the device.

    A tensor is treated as rows of 16 KiB: the digest holds the sums of all rows and, if ``thorough``, of all columns,
    and the remainder itself. Column sums detect two words that change places, at the cost of a second pass over the
    memory.
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
    """For each tensor a boolean on its device that says whether its digest is unchanged. Does not wait."""
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
