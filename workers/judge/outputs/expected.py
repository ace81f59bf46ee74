"""From what the reference was seen to do to what a candidate's outputs are judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from workers.judge.outputs import check
from workers.judge.outputs.choices import Choice
from workers.judge.outputs.observed import Observed
from workers.judge.outputs.rules import Kind, Rule, rules_for
from workers.judge.outputs.truth import Truth, as_rows
from workers.records import Status, Tolerance

FLOOR = 1e-3
"""Least scale of a row, as a share of that of the usual row: rows of zeros may have rounding errors."""

OUTLIER = 10.0
"""A number counts towards the scale of its row as at most so many times the usual one. Otherwise a few large numbers
(an outlier channel, an attention sink) would leave the others unjudged."""

NEARLY = 0.99
"""A token may be drawn if its weight is at least this share of the least weight that the reference draws, since
rounding decides where top-p ends in a vocabulary of 100,000."""


def truths_of(rules: Sequence[Rule], seen: Observed, inputs: Sequence[Any]) -> tuple[Truth, ...]:
    """The truth of each output, from what was observed of the reference."""
    return tuple(
        replace(
            _truth(_refined(rule, choice, random, value), value, counted, choice, random, inputs),
            draws=draws,
            returned=returned,
        )
        for rule, value, counted, random, choice, draws, returned in zip(
            rules, seen.expected, seen.counted, seen.random, seen.choice, seen.draws, seen.returned, strict=True
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
    usable = usable & (values > 0)  # zeros, as of a ReLU, say nothing of how exact the numbers around them are
    usual = torch.where(usable, values, torch.nan).nanmedian(1, keepdim=True).values.nan_to_num(0.0)
    kept = torch.where(usable, torch.minimum(values, OUTLIER * usual), 0)
    means = kept.to(torch.float64).sum(1) / usable.sum(1).clamp(min=1)
    scale = float(means.max()) if means.numel() else 0.0
    whole = torch.where(means > 0, means, torch.nan).nanmedian().nan_to_num(0.0)
    atol = means * 0 + tolerance.atol
    if tolerance.by_scale:
        # Where the format's numbers are further apart, as those of float16 near zero, the next one is as good.
        kind = torch.finfo(truth.value.dtype if truth.value.is_floating_point() else torch.float32)
        atol = (atol * torch.maximum(means, FLOOR * whole)).clamp(min=1.5 * kind.smallest_normal * kind.eps)
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
    """Whether zeros are wrong, in all places in which the reference is finite."""
    import torch

    zeros = torch.zeros_like(truth.value)
    special = ~torch.isfinite(truth.value.to(torch.float32))
    zeros[special] = truth.value[special]
    return check.compare([zeros], [replace(truth, idle=None)]).status is not Status.PASSED
