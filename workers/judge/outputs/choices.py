"""Where whole numbers in an output come from: the calls by which the reference selected or drew them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch


@dataclass(frozen=True)
class Choice:
    """One call by which the reference chose indices.

    Args:
        scores: [rows, length]; larger is better. For a draw, the weights.
        indices: The indices that the call returned.
        axis: Axis of ``indices`` along which the choices of one row lie; None if the call reduced it.
        ordered: Whether the order of the choices matters.
        drawn: Whether they were drawn at random, with the scores as weights.
        given: Whether the scores are numbers of an input, so that a candidate has exactly the same.
        top_k: Whether the call was top-k.
        names: What the output holds for each score, in rising order, if not the index itself: page addresses, say.
    """

    scores: Any
    indices: Any
    axis: int | None
    ordered: bool = False
    drawn: bool = False
    given: bool = False
    top_k: bool = False
    names: Any = None


def choice_of(output: Any, choices: Sequence[Choice]) -> Choice | None:
    """The call, or the calls for one row each, that gave exactly this output."""
    if output.is_floating_point() or output.dtype is torch.bool or not output.numel():
        return None
    for choice in reversed(choices):
        if not _same(output, [choice]):
            if _best_of(output, choice):
                return replace(choice, ordered=False)
            continue
        if choice.drawn or choice.axis is None or output.dim() == choice.indices.dim():
            return choice
        if choice.indices.shape[choice.axis] == 1:  # one of each row, and the axis taken away
            return replace(choice, axis=None)
    rows = [c for c in choices if c.scores.shape[0] == 1]
    for count in sorted({c.indices.numel() for c in rows}):
        alike = [c for c in rows if c.indices.numel() == count]
        for kept in (alike, [c for c in alike if c.drawn], [c for c in alike if not c.drawn]):
            if len(kept) > 1 and _same(output, kept):
                return _stacked(kept, output)
    return None


def _best_of(output: Any, choice: Choice) -> bool:
    """Whether these are indices of a choice without its order: one end of what was sorted, or put in rising order."""
    axis, indices = choice.axis, choice.indices
    if axis is None or choice.drawn or output.dim() != indices.dim() or indices.numel() == output.numel() == 0:
        return False
    count, length = output.shape[axis], indices.shape[axis]
    if count == length:
        parts = [indices.sort(axis).values]
    elif choice.ordered and count < length:
        parts = [indices.narrow(axis, start, count) for start in (0, length - count)]
    else:
        return False
    return any(part.shape == output.shape and bool((part == output).all()) for part in parts)


def _same(output: Any, choices: Sequence[Choice]) -> bool:
    if sum(c.indices.numel() for c in choices) != output.numel():
        return False
    found = torch.cat([c.indices.reshape(-1) for c in choices])
    return bool((found == output.reshape(-1)).all())


def _stacked(choices: Sequence[Choice], output: Any) -> Choice:
    """Choices for one row each as one; a row that was not drawn among such that were is certain."""
    drawn = any(c.drawn for c in choices)
    width = max(c.scores.shape[-1] for c in choices)
    scores = choices[0].scores.new_full((len(choices), width), 0.0 if drawn else -torch.inf)
    for row, choice in zip(scores, choices, strict=True):
        if drawn and not choice.drawn:
            row[choice.indices.reshape(-1)] = 1.0
        else:
            row[: choice.scores.shape[-1]] = choice.scores[0]
    axis = output.dim() - 1 if output.dim() > 1 or choices[0].indices.numel() > 1 else None
    return Choice(
        scores,
        output.clone(),
        axis,
        ordered=any(c.ordered for c in choices),
        drawn=drawn,
        given=all(c.given for c in choices),
    )


def with_names(rows: Sequence[Choice], outputs: Sequence[Any], expected: Any) -> Choice | None:
    """One choice for all rows from what the reference gave for each part of the indices; None if that does not explain
    what it gave at first. Places of a row beyond its choices are one more name, with the least score of all."""
    longest = max(r.scores.shape[1] for r in rows)
    scores = rows[0].scores.new_full((len(rows), longest + 1), -torch.inf)
    names = expected.new_zeros((len(rows), longest + 1)).to(torch.int64)
    for row, choice in enumerate(rows):
        count, length = choice.indices.numel(), choice.scores.shape[1]
        known = torch.cat([y[row, :count] for y in outputs])[:length].to(torch.int64)
        rest = expected[row, count:]
        padding = int(rest[0]) if len(rest) else int(known[0])
        if len(rest) and not bool((rest == padding).all()):
            return None
        names[row], scores[row, :length] = padding, choice.scores[0]
        names[row, :length] = known
        if not bool((known[choice.indices.reshape(-1)] == expected[row, :count]).all()):
            return None
    names, order = names.sort(dim=1)
    given = all(r.given for r in rows)
    return Choice(scores.gather(1, order), expected.clone(), 1, given=given, top_k=True, names=names)
