"""Compares outputs with the truth by its rule. Everything is computed on the device without waiting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from workers.judge.outputs.rules import DEFAULT, Kind
from workers.judge.outputs.truth import Truth, as_rows

FIGURES = 5
"""Number of figures of each output, float64: elements that should be finite and are not, or the reverse; elements that
do not match; largest absolute error; largest relative error; largest share of a part of it that does not match or, of
floats that all have to match, how many times its tolerance the worst is off."""

COLUMNS = 128
"""Columns in a part of an output. Where a share of elements may be wrong, no row and no part may have many more of
them: rounding errors are everywhere, a mistake is in one place."""

_LEAST = 1e-37
"""Least tolerance, so that an error of zero is none of zero's."""

EPSILON = 1e-8
"""flashinfer-bench's constant in the denominator of relative errors, which are reported and decide nothing."""


def figures(outputs: Sequence[Any], truths: Sequence[Truth]) -> Any:
    """The figures of all outputs, float64 [outputs, FIGURES]. Shapes and dtypes must agree."""
    orders = _orders(outputs, truths)
    rows = []
    for output, truth in zip(outputs, truths, strict=True):
        value, counted = truth.value, truth.counted
        if not output.numel():
            rows.append(torch.zeros(FIGURES, dtype=torch.float64, device=output.device))
            continue
        order = orders.get(tuple(output.shape)) if truth.rule.kind is Kind.CLOSE else None
        if order is not None:
            output, value = output.gather(-1, order[0]), value.gather(-1, order[1])
        found = _BY_KIND[truth.rule.kind](output, value, counted, truth)
        # Sending a number to the device would make the host wait.
        nothing = torch.zeros((), dtype=torch.float64, device=output.device)
        rows.append(torch.stack([v.to(torch.float64) if isinstance(v, torch.Tensor) else nothing for v in found]))
    return torch.stack(rows)


def _orders(outputs: Sequence[Any], truths: Sequence[Truth]) -> dict[tuple[int, ...], tuple[Any, Any]]:
    """For outputs that belong to selected indices (their values or weights): an order by what was selected, in which
    the candidate's and the reference's agree."""
    orders = {}
    for output, truth in zip(outputs, truths, strict=True):
        if truth.rule.kind is Kind.SELECTED and output.dim() and output.shape[-1] > 1:
            choice = truth.choice
            if choice is not None and (choice.ordered or choice.axis != output.dim() - 1):
                continue
            keys = [_picked(tensor, truth)[0].reshape(tensor.shape) for tensor in (output, truth.value)]
            mine, theirs = (torch.argsort(key, dim=-1, stable=True) for key in keys)
            orders[tuple(output.shape)] = (mine, theirs)
    return orders


def _close(output: Any, value: Any, counted: Any, truth: Truth) -> Sequence[Any]:
    """Floats within a tolerance.

    Source: flashinfer-bench 0.1.2, bench/utils.py (compute_error_stats) for the figures, which are the same.
    """
    rule = truth.rule.tolerance
    x, y = as_rows(output.to(torch.float32)), as_rows(value.to(torch.float32))
    error = torch.abs(x - y)
    bad = ~torch.isfinite(x)
    if not truth.finite:
        special = bad | ~torch.isfinite(y)
        bad = special & ~((x == y) | (torch.isnan(x) & torch.isnan(y)))
        error = torch.where(special, 0.0, error)
    if counted is not None:
        counted = as_rows(counted)
        bad = bad & counted
        error = torch.where(counted, error, 0.0)
        y = torch.where(counted, y, 0.0)  # poison, beside which every figure would be NaN
    size = torch.abs(y)
    relative = error / (size + EPSILON)
    # By the product: where numbers are as small as EPSILON, the figure says less than the truth.
    times = error / torch.maximum(truth.atol, rule.rtol * size).clamp_(min=_LEAST)
    wrong = times > 1
    counts = _counts(wrong)
    if rule.required_matched_ratio < 1:
        part = _worst_part(counts, wrong.shape)
    else:
        part = times.max() if truth.finite else times.nan_to_num(0.0).max()
    return (
        bad.sum(),
        counts.sum(),
        error.max(),
        relative.nan_to_num(0.0).max() if not truth.finite else relative.max(),
        part,
    )


def _counts(wrong: Any) -> Any:
    """How many are wrong in each row and run of columns, [rows, runs]; one run where they do not divide a row."""
    rows, columns = wrong.shape
    runs = columns // COLUMNS if columns % COLUMNS == 0 else 1
    return wrong.view(rows, max(1, runs), -1).sum(2, dtype=torch.int32)


def _worst_part(counts: Any, shape: Sequence[int]) -> Any:
    """Largest share of a row, or of a run of columns in all rows, that is wrong."""
    (rows, columns), runs = shape, counts.shape[1]
    worst = counts.sum(1).max() / columns if columns >= COLUMNS // 2 else counts.new_zeros((), dtype=torch.float32)
    return torch.maximum(worst, counts.sum(0).max() / (rows * columns // runs)) if runs > 1 else worst


def _exact(output: Any, value: Any, counted: Any, truth: Truth) -> Sequence[Any]:
    x, y = output.to(torch.float64), value.to(torch.float64)
    # As float64, int64 values beyond 2**53 would not be distinguished.
    wrong = output != value
    if output.is_floating_point():
        wrong = wrong & ~(torch.isnan(x) & torch.isnan(y))
    if counted is not None:
        wrong = wrong & counted
    error = torch.where(wrong, torch.abs(x - y), 0.0)
    return 0.0, wrong.sum(), error.max(), (error / (torch.abs(y) + EPSILON)).max(), 0.0


def _steps(output: Any, value: Any, counted: Any, truth: Truth) -> Sequence[Any]:
    """Distance in codes: one step is to the next number of the format."""
    x, y = _codes(output), _codes(value)
    steps = torch.abs(x - y)
    bad = torch.zeros_like(steps, dtype=torch.bool)
    a, b = output.to(torch.float32), value.to(torch.float32)
    if output.is_floating_point():
        special = ~torch.isfinite(a) | ~torch.isfinite(b)
        same = (a == b) | (torch.isnan(a) & torch.isnan(b))
        bad = special & ~same
        steps = torch.where(special, 0, steps)
    if counted is not None:
        bad, steps = bad & counted, torch.where(counted, steps, 0)
    error = torch.where(steps > 0, torch.abs(a - b), 0.0)
    off = (steps == 1).sum()
    # With few elements two may be off.
    share = torch.where(off <= 2, 0.0, off / steps.numel())
    return bad.sum(), (steps > 1).sum(), error.max(), (error / (torch.abs(b) + EPSILON)).max(), share


def _codes(tensor: Any) -> Any:
    """Whole numbers in the order of the values: neighbours differ by one; both zeros are the same."""
    if not tensor.is_floating_point():
        return tensor.to(torch.int32)
    bits = tensor.contiguous().view({1: torch.int8, 2: torch.int16, 4: torch.int32}[tensor.element_size()])
    bits = bits.to(torch.int64)
    top = 1 << (8 * tensor.element_size() - 1)
    return torch.where(bits < 0, -(bits + top), bits)


def _selected(output: Any, value: Any, counted: Any, truth: Truth) -> Sequence[Any]:
    """Compare the scores of what was selected, in falling order; without scores, the indices in any order."""
    mine, out_of_range = _picked(output, truth)
    theirs, _ = _picked(value, truth)
    choice = truth.choice
    if choice is None or not choice.ordered:
        mine, theirs = mine.sort(-1).values, theirs.sort(-1).values
    error = torch.where(mine == theirs, 0.0, torch.abs(mine - theirs))
    relative = error / (torch.abs(theirs) + EPSILON)
    if choice is None or choice.given:
        wrong = error > 0
    else:
        # The candidate computes its scores with different rounding.
        size = torch.abs(choice.scores)
        size = torch.where(torch.isfinite(size), size, 0).mean(1, keepdim=True)
        wrong = (error > DEFAULT.atol * size) & (error > DEFAULT.rtol * torch.abs(theirs))
        # NaN and infinities are as good as themselves only; beside them, every relative error is NaN.
        wrong = torch.where(torch.isfinite(mine) & torch.isfinite(theirs), wrong, mine != theirs)
    twice = 0.0
    if choice is not None and mine.shape[-1] > 1:
        indices = _by_row(output, choice).sort(-1).values
        expected = _by_row(value, choice).sort(-1).values
        doubles = (indices[:, 1:] == indices[:, :-1]).sum() - (expected[:, 1:] == expected[:, :-1]).sum()
        twice = doubles.clamp(min=0)
    return 0.0, wrong.sum() + out_of_range + twice, error.nan_to_num(0.0).max(), relative.nan_to_num(0.0).max(), 0.0


def _by_row(indices: Any, choice: Any) -> Any:
    """Numbers of scores, [rows, chosen]; -1 for what is no name of one."""
    indices = indices.to(torch.int64)
    if choice.axis is None:
        return indices.reshape(-1, 1)
    rows = indices.movedim(choice.axis, -1).reshape(len(choice.scores), -1).contiguous()
    if choice.names is None:
        return rows
    found = torch.searchsorted(choice.names, rows).clamp(max=choice.names.shape[1] - 1)
    return torch.where(choice.names.gather(1, found) == rows, found, -1)


def _picked(indices: Any, truth: Truth) -> tuple[Any, Any]:
    """Scores of the indices, [rows, chosen], and the number of indices out of range."""
    choice = truth.choice
    if choice is None:
        rows = indices.reshape(-1, indices.shape[-1]) if indices.dim() else indices.reshape(1, 1)
        return rows.to(torch.float64), 0.0
    rows = _by_row(indices, choice)
    outside = (rows < 0) | (rows >= choice.scores.shape[1])
    picked = choice.scores.gather(1, rows.clamp(0, choice.scores.shape[1] - 1))
    # argmax, argmin and top-k treat NaN as the best value.
    return picked.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf), outside.sum()


def _drawn(output: Any, value: Any, counted: Any, truth: Truth) -> Sequence[Any]:
    """Whether each sample is possible. :mod:`workers.judge.outputs.sampling` checks their distribution."""
    if truth.possible is None:
        lowest, highest = truth.value.min(), truth.value.max()
        if truth.draws is not None:
            lowest, highest = torch.minimum(lowest, truth.draws.min()), torch.maximum(highest, truth.draws.max())
        span = highest - lowest + 1
        wrong = (output < lowest - span) | (output > highest + span)
    else:
        tokens = output.to(torch.int64).reshape(len(truth.possible), -1)
        inside = (tokens >= 0) & (tokens < truth.possible.shape[1])
        wrong = ~(inside & truth.possible.gather(1, tokens.clamp(0, truth.possible.shape[1] - 1)))
    return 0.0, wrong.sum(), 0.0, 0.0, 0.0


_BY_KIND = {
    Kind.CLOSE: _close,
    Kind.EXACT: _exact,
    Kind.STEPS: _steps,
    Kind.SELECTED: _selected,
    Kind.DRAWN: _drawn,
}
