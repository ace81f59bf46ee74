"""The truth of an output on one workload: the reference's answer, with everything that its rule needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from workers.judge.rules import Kind, Rule, rules_for
from workers.records import Tolerance

if TYPE_CHECKING:
    from workers.judge.choices import Choice
    from workers.judge.observed import Observed

ROW = 64
"""Fewest elements of a row: trailing axes are joined until there are so many, so that its mean magnitude is a scale for
the errors in it."""

FLOOR = 1e-3
"""Least scale of a row, as a share of the mean magnitude of the output: rows of zeros may have rounding errors."""

NEARLY = 0.99
"""A token may be drawn if its weight is at least this share of the least weight that the reference draws, since
rounding decides where top-p ends in a vocabulary of 100,000."""


@dataclass(frozen=True)
class Truth:
    """The truth of one output.

    Args:
        rule: How it is judged on this workload.
        value: The reference's output.
        counted: Elements that the reference wrote, booleans; None if all.
        finite: Whether all counted elements are finite.
        atol: CLOSE: absolute tolerance of each row, float32 [rows, 1].
        choice: SELECTED and DRAWN: what it is chosen from, if that was observed.
        before: DRAWN: probability of all tokens that are more probable, float64 [rows, vocabulary].
        possible: DRAWN: tokens that may be drawn, booleans [rows, vocabulary].
        draws: DRAWN, if the weights were not observed: what the reference drew, [draws, rows].
        idle: Why the output is no evidence that a candidate is right, None if it is.
        scale: Largest mean magnitude of a row.
    """

    rule: Rule
    value: Any
    counted: Any = None
    finite: bool = True
    atol: Any = None
    choice: Choice | None = None
    before: Any = None
    possible: Any = None
    draws: Any = None
    idle: str | None = None
    scale: float = 0.0

    @property
    def tensors(self) -> list[Any]:
        """All that a candidate must not change."""
        chosen = (None, None) if self.choice is None else (self.choice.scores, self.choice.names)
        held = (self.value, self.counted, self.atol, *chosen, self.before, self.possible, self.draws)
        return [tensor for tensor in held if tensor is not None]

    def __str__(self) -> str:
        return str(self.rule) if self.idle is None else f"{self.rule}; no evidence, since it {self.idle}"


def truths_of(rules: Sequence[Rule], seen: Observed, inputs: Sequence[Any]) -> tuple[Truth, ...]:
    """The truth of each output, from what was observed of the reference."""
    return tuple(
        replace(_truth(_refined(rule, choice, random, value), value, counted, choice, random, inputs), draws=draws)
        for rule, value, counted, random, choice, draws in zip(
            rules, seen.expected, seen.counted, seen.random, seen.choice, seen.draws, strict=True
        )
    )


def plain(expected: Sequence[Any], tolerance: Tolerance | None = None) -> tuple[Truth, ...]:
    """The truth of outputs by their dtype alone; floats by the tolerance, if there is one."""
    outputs = {f"{index}": {"dtype": str(y.dtype).removeprefix("torch.")} for index, y in enumerate(expected)}
    truths = []
    for rule, value in zip(rules_for({"name": "plain", "outputs": outputs}), expected, strict=True):
        if tolerance is not None and value.is_floating_point():
            rule = replace(rule, kind=Kind.CLOSE, tolerance=tolerance)
        truths.append(_truth(rule, value, None, None, False, ()))
    return tuple(truths)


def why_unjudgeable(truths: Sequence[Truth]) -> str | None:
    """Why nothing can be judged by these, since none of them is evidence; None if one is."""
    if any(truth.idle is None for truth in truths):
        return None
    return "; ".join(f"the reference's output {t.rule.output!r} {t.idle}" for t in truths) or "there is no output"


def judged_by(truths: Sequence[Truth]) -> dict[str, str]:
    """Output name -> rule as text, for records."""
    return {truth.rule.output: str(truth) for truth in truths}


def as_rows(tensor: Any) -> Any:
    """The tensor as [rows, columns], see :data:`ROW`."""
    if not tensor.numel():
        return tensor.reshape(0, 1)
    columns = 1
    for size in reversed(tensor.shape):
        if columns >= ROW:
            break
        columns *= size
    return tensor.reshape(-1, columns)


def _refined(rule: Rule, choice: Choice | None, random: bool, value: Any) -> Rule:
    """The rule, refined by what was observed of the reference if the table's last line applied."""
    if rule.kind is Kind.EXACT and not value.is_floating_point() and rule.why != "as set":
        if random:
            return replace(rule, kind=Kind.DRAWN, why="the reference draws it")
        if choice is not None and not choice.drawn:
            return replace(rule, kind=Kind.SELECTED, why="the reference selects it")
    if rule.kind is Kind.DRAWN and not random and choice is None:
        return replace(rule, kind=Kind.EXACT, why="the reference draws the same every time")
    return rule


def _truth(rule: Rule, value: Any, counted: Any, choice: Choice | None, random: bool, inputs: Sequence[Any]) -> Truth:
    truth = Truth(rule, value, counted)
    if rule.kind is Kind.CLOSE:
        truth = _with_scale(truth)
    elif rule.kind is Kind.SELECTED and choice is not None and not choice.drawn:
        truth = replace(truth, choice=choice)
    elif rule.kind is Kind.DRAWN and choice is not None:
        truth = _with_weights(truth, choice, inputs)
    if random and rule.kind is not Kind.DRAWN:
        import torch

        truth = replace(truth, counted=torch.zeros_like(value, dtype=torch.bool))
    return replace(truth, idle=_why_idle(truth, random))


def _with_scale(truth: Truth) -> Truth:
    import torch

    tolerance = truth.rule.tolerance
    values = torch.abs(as_rows(truth.value.to(torch.float32)))
    usable = torch.isfinite(values)
    finite = usable if truth.counted is None else usable | ~as_rows(truth.counted)
    if truth.counted is not None:
        usable = usable & as_rows(truth.counted)
    sums, counts = torch.where(usable, values, 0).to(torch.float64).sum(1), usable.sum(1)
    means = sums / counts.clamp(min=1)
    scale = float(means.max()) if means.numel() else 0.0
    whole = sums.sum() / counts.sum().clamp(min=1)
    atol = tolerance.atol * torch.maximum(means, FLOOR * whole) if tolerance.by_scale else means * 0 + tolerance.atol
    return replace(truth, atol=atol.to(torch.float32).unsqueeze(1), finite=bool(finite.all()), scale=scale)


def _with_weights(truth: Truth, choice: Choice, inputs: Sequence[Any]) -> Truth:
    """The truth of a draw, with the cumulative probabilities in falling order."""
    import torch

    scores = choice.scores
    if not choice.drawn:  # the reference did not draw here, so the best is certain
        best = torch.zeros_like(scores)
        best.scatter_(1, choice.indices.reshape(len(scores), -1).to(torch.int64), 1.0)
        scores = best
    weights = scores.to(torch.float64)
    weights = weights / weights.sum(1, keepdim=True)
    falling, order = weights.sort(dim=1, descending=True, stable=True)
    before = torch.empty_like(weights).scatter_(1, order, falling.cumsum(1) - falling)
    possible = weights > 0
    for given in inputs:
        if isinstance(given, torch.Tensor) and given.is_floating_point() and given.shape == weights.shape:
            least = torch.where(possible, given, torch.inf).amin(1, keepdim=True)
            possible = possible | (given >= NEARLY * least)
            break
    return replace(truth, choice=replace(choice, scores=weights.to(torch.float32)), before=before, possible=possible)


def _why_idle(truth: Truth, random: bool) -> str | None:
    import torch

    value, kind = truth.value, truth.rule.kind
    if not value.numel():
        return "is empty"
    if kind is Kind.DRAWN:
        return None
    if random:
        return "is random, and not whole numbers"
    if truth.counted is not None and not bool(truth.counted.any()):
        return "is not written"
    if kind is Kind.SELECTED and truth.choice is not None:
        return None
    values = value.to(torch.float32) if kind is Kind.STEPS or value.is_floating_point() else value
    values = values if truth.counted is None else values[truth.counted]
    special = ~torch.isfinite(values)
    if bool(special.all()):
        return "is nowhere finite"
    finite = values[~special]
    if values.numel() > 1 and not bool(special.any()) and bool((finite == finite.flatten()[0]).all()):
        return f"is constant ({finite.flatten()[0].item():g})"
    if kind is Kind.CLOSE and not _zeros_fail(truth):
        return f"is so small that zeros would pass ({truth.rule})"
    return None


def _zeros_fail(truth: Truth) -> bool:
    from workers.judge import check
    from workers.records import Status

    zeros = truth.value.clone().zero_()
    import torch

    special = ~torch.isfinite(truth.value.to(torch.float32))
    zeros[special] = truth.value[special]
    return check.compare([zeros], [replace(truth, idle=None)]).status is not Status.PASSED


def largest_scale(truths: Sequence[Truth]) -> float:
    """Largest mean magnitude of a row of a float output."""
    return max((t.scale for t in truths if math.isfinite(t.scale)), default=0.0)
