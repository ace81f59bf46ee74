"""The truth of an output on one workload: the reference's answer, with everything that its rule needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workers.judge.outputs.choices import Choice
from workers.judge.outputs.rules import Rule

ROW = 64
"""Fewest elements of a row: trailing axes are joined until a row has this many, so that its mean magnitude is a
scale for the errors in it."""


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
        returned: Dtype and shape that the reference returned, if the definition says another; candidates may return it
            in either form.
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
    returned: tuple[Any, tuple[int, ...]] | None = None

    @property
    def tensors(self) -> list[Any]:
        """All that a candidate must not change."""
        chosen = (None, None) if self.choice is None else (self.choice.scores, self.choice.names)
        held = (self.value, self.counted, self.atol, *chosen, self.before, self.possible, self.draws)
        return [tensor for tensor in held if tensor is not None]

    def as_declared(self, output: Any) -> Any:
        """A candidate's output, in the form of the definition if it has the one that the reference returns."""
        if (output.dtype, tuple(output.shape)) != self.returned:
            return output
        return output.reshape(self.value.shape).to(self.value.dtype)

    def __str__(self) -> str:
        return str(self.rule) if self.idle is None else f"{self.rule}; no evidence, since it {self.idle}"


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


def largest_scale(truths: Sequence[Truth]) -> float:
    """Largest mean magnitude of a row of a float output."""
    return max((t.scale for t in truths if math.isfinite(t.scale)), default=0.0)
