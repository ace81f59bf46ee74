"""Calls a candidate once, and tells from figures of all its outputs whether they are what the reference gives."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from workers.devices.device import CANDIDATE, Device
from workers.fib import adapter as fib
from workers.judge.outputs import memory
from workers.judge.outputs.matching import figures
from workers.judge.outputs.rules import NEAR, NEAR_SHARE, STEPS_SHARE, Kind
from workers.judge.outputs.truth import Truth
from workers.records import Status

NEAR_FROM = 100
"""Elements of an output from which on at least one may be."""


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
    is the definition's own code; ``writes``: whether that writes to this workload's inputs and therefore gets copies;
    ``compiles_late``: whether its kernels are compiled when they are launched.
    """

    function: Callable[..., Any]
    destination_passing: bool
    was_called: bool = False
    is_reference: bool = False
    writes: bool = False
    compiles_late: bool = False


def run_once(candidate: Candidate, definition: Any, inputs: Sequence[Any], device: Device) -> list[Any]:
    """Outputs of one call, which may still be running. Destination-passing candidates get poisoned outputs, so what
    they do not write shows.

    Raises:
        Exception: Whatever the candidate raises.
    """
    outputs: tuple[Any, ...] = ()
    given = memory.copies_of(inputs) if candidate.writes else inputs
    if candidate.destination_passing:
        outputs = tuple(fib.allocate_outputs(definition, inputs, device.name))
        memory.poison(outputs, 0)
    with device.span(CANDIDATE) if candidate.was_called else contextlib.nullcontext():
        result = candidate.function(*given, *outputs)
    candidate.was_called = True
    return list(outputs) if candidate.destination_passing else fib.normalize(definition, result, device.name)


@dataclass(frozen=True)
class Errors:
    """Error figures of all outputs, being computed on the device."""

    figures: Any
    """See :func:`workers.judge.outputs.matching.figures`."""
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
        if ratio == 1:
            return _what_is_off(truth, wrong, share, absolute, part)
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


def _what_is_off(truth: Truth, wrong: float, share: float, absolute: float, times: float) -> str:
    """One line about floats of which all have to match, empty if they do.

    The tolerance is in units of the row's magnitude where it is ours. Rounding errors are spread about like a bell, so
    a few of many right elements are a little beyond it, as in attention whose weights are bfloat16; none is far.
    """
    rule, size = truth.rule, truth.value.numel()
    may = max(NEAR_SHARE * size, float(size >= NEAR_FROM)) if rule.tolerance.by_scale else 0.0
    if not wrong or (wrong <= may and times <= NEAR):
        return ""
    text = (
        f"output {rule.output}: {share:.4%} of the elements are within the tolerance ({rule}), 100.0000% are required"
    )
    if may:
        text += f" but for {NEAR_SHARE:.1%} up to {NEAR:g} times it"
    return f"{text}; largest absolute error {absolute:.4g}, {times:.3g} times its tolerance"


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
    outputs = [truth.as_declared(output) for output, truth in zip(outputs, truths, strict=True)]
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
