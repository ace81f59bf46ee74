"""Checks that a candidate draws from the right distribution, by the probability of many draws."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from workers.devices.device import CANDIDATE, Device
from workers.fib import adapter as fib
from workers.judge.outputs import memory
from workers.judge.outputs.check import Candidate, Verdict
from workers.judge.outputs.rules import Kind
from workers.judge.outputs.truth import Truth
from workers.records import Status

DRAWS = 8192
"""Number of samples to collect; a call gives one per row."""

CALLS = (256, 2048)
"""Fewest and most calls. With 256 draws, a single row is judged by 8 bins."""

BUDGET_S = 5.0
"""Seconds after which no more calls are made, however few there were."""

PER_BIN = 32
"""Expected draws per bin that the chi-square distribution needs to be a good approximation."""

UNLIKELY = 1e-8
"""Probability of refusing a right candidate: small, since thousands of configs are tested. With 8192 draws the test
notices one bin of 64 that is a tenth too full."""

SEED = 2026


def verdict(samples: Mapping[int, Any], truths: Sequence[Truth]) -> Verdict:
    """The verdict on what :func:`draw` returned; names the first output that is wrong."""
    for index, tokens in samples.items():
        why = why_wrong(tokens, truths[index])
        if why is not None:
            text = f"output {truths[index].rule.output}: {why} ({truths[index].rule})"
            return Verdict(Status.INCORRECT_NUMERICAL, text, matched_ratio=0.0)
    return Verdict(Status.PASSED)


def draw(
    candidate: Candidate, definition: Any, inputs: Sequence[Any], truths: Sequence[Truth], device: Device
) -> dict[int, Any]:
    """Samples of many calls with the same inputs: index of a drawn output -> [calls, samples]. torch's generators
    start at a fixed seed and are restored.

    Raises:
        Exception: Whatever the candidate raises.
    """
    drawn = [i for i, t in enumerate(truths) if t.rule.kind is Kind.DRAWN]
    outputs = fib.allocate_outputs(definition, inputs, device.name)
    rows = max(1, min(outputs[i].numel() for i in drawn))
    calls = min(max(DRAWS // rows, CALLS[0]), CALLS[1])
    kept = {i: outputs[i].new_empty((calls, *outputs[i].shape)) for i in drawn}
    memory.poison(list(kept.values()), 0)
    on_gpu = device.name.startswith("cuda")
    until = time.monotonic() + BUDGET_S
    made = 0
    with torch.random.fork_rng(devices=[torch.device(device.name)] if on_gpu else []), device.span(CANDIDATE):
        torch.manual_seed(SEED)
        while made < calls and (made < 2 or time.monotonic() < until):
            if candidate.destination_passing:
                candidate.function(*inputs, *(kept[i][made] if i in kept else out for i, out in enumerate(outputs)))
            else:
                found = fib.normalize(definition, candidate.function(*inputs), device.name)
                for i in drawn:
                    kept[i][made].copy_(truths[i].as_declared(found[i]))
            made += 1
    return {i: tokens[:made].reshape(made, -1) for i, tokens in kept.items()}


def why_wrong(tokens: Any, truth: Truth) -> str | None:
    """Why draws [calls, samples] are not from the truth's distribution, None if they may be."""
    if truth.before is not None:
        return _against_weights(tokens, truth)
    if truth.draws is not None:
        return _against_draws(tokens, truth.draws)
    return None


def _against_weights(tokens: Any, truth: Truth) -> str | None:
    """Map each draw to a number between 0 and 1: its place in the cumulative probabilities in falling order, at random
    within its own probability. Draws from the right distribution are uniform there, whatever the distribution."""
    before, weights = truth.before, truth.choice.scores  # type: ignore[union-attr]
    rows = tokens.to(torch.int64).reshape(len(tokens), len(before), -1).movedim(0, 1).reshape(len(before), -1)
    inside = (rows >= 0) & (rows < before.shape[1])
    rows = rows.clamp(0, before.shape[1] - 1)
    impossible = int((~(inside & truth.possible.gather(1, rows))).sum())
    if impossible:
        return f"{impossible} of {rows.numel()} draws cannot be drawn"
    generator = torch.Generator(rows.device).manual_seed(SEED)
    within = torch.rand(rows.shape, generator=generator, device=rows.device, dtype=torch.float64)
    places = before.gather(1, rows) + within * weights.gather(1, rows).to(torch.float64)
    count = rows.shape[1]
    one = _bins(places, min(max(count // PER_BIN, 2), 32))
    expected = count / one.shape[1]
    each = _p_values(((one - expected) ** 2 / expected).sum(1), one.shape[1] - 1)
    whole = _bins(places.reshape(1, -1), min(max(rows.numel() // PER_BIN, 2), 64))
    expected = rows.numel() / whole.shape[1]
    pooled = _p_values(((whole - expected) ** 2 / expected).sum(1), whole.shape[1] - 1)
    return _said(each, pooled, rows)


def _against_draws(tokens: Any, reference: Any) -> str | None:
    """Two samples from unknown distributions: every bin must hold equally many of each, within chance."""
    rows, known = tokens.T.to(torch.float64).contiguous(), reference.T.to(torch.float64).contiguous()
    n, m = rows.shape[1], known.shape[1]
    bins = min(max(min(n, m) // PER_BIN, 2), 16)
    edges = known.sort(1).values[:, [m * i // bins for i in range(1, bins)]].contiguous()
    mine = _count(torch.searchsorted(edges, rows, right=True), bins)
    theirs = _count(torch.searchsorted(edges, known, right=True), bins)
    difference = (mine * (m / n) ** 0.5 - theirs * (n / m) ** 0.5) ** 2 / (mine + theirs).clamp(min=1)
    each = _p_values(difference.sum(1), bins - 1)
    mine, theirs = mine.sum(0, keepdim=True), theirs.sum(0, keepdim=True)
    difference = (mine * (m / n) ** 0.5 - theirs * (n / m) ** 0.5) ** 2 / (mine + theirs).clamp(min=1)
    return _said(each, _p_values(difference.sum(1), bins - 1), rows)


def _said(each: Any, pooled: Any, rows: Any) -> str | None:
    worst, everywhere = float(each.min()) * len(each), float(pooled.min())
    if min(worst, everywhere) >= UNLIKELY:
        return None
    where = f"row {int(each.argmin())}" if worst < everywhere else "all rows"
    chance = f"chi-square of {where} has probability {min(worst, everywhere):.1g}"
    return f"not the reference's distribution: with {rows.shape[1]} draws for each of {len(rows)} rows, the {chance}"


def _bins(places: Any, bins: int) -> Any:
    """Histogram of each row over equal parts of [0, 1], float64 [rows, bins]."""
    return _count((places * bins).to(torch.int64).clamp(0, bins - 1), bins)


def _count(bin_of: Any, bins: int) -> Any:
    rows = torch.arange(len(bin_of), device=bin_of.device).unsqueeze(1)
    return torch.bincount((rows * bins + bin_of).reshape(-1), minlength=len(bin_of) * bins).view(-1, bins).double()


def _p_values(statistics: Any, degrees: int) -> Any:
    """Probability of at least so large a chi-square statistic."""
    half = torch.full_like(statistics, degrees / 2)
    return torch.special.gammaincc(half, statistics / 2)
