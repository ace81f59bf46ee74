"""The op as the MoE families interpret it, in float32 torch on any device, one expert at a time."""

from __future__ import annotations

from typing import Any

import torch

from search_spaces.moe_fp8.reading import BLOCK, Reading


def route(
    reading: Reading, logits: torch.Tensor, bias: torch.Tensor | None, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Chosen experts [T, top_k] int64 by falling score, and their weights [T, top_k] float32.

    Args:
        reading: How the definition was read.
        logits: [T, E] float32 or bfloat16.
        bias: [E], added only for the choice; None for ``renorm``.
        scaling: Factor of ``deepseek`` weights.

    Source: the rules of flashinfer-trace's moe_fp8_block_scale definitions.
    """
    x = logits.float()
    if bias is None:
        best, chosen = torch.topk(x, reading.top_k, dim=1)
        return chosen, torch.softmax(best, dim=1)
    scores = 1.0 / (1.0 + torch.exp(-x))
    biased = scores + bias.float()
    if reading.groups > 1:
        grouped = biased.view(len(x), reading.groups, reading.experts // reading.groups)
        group_scores = grouped.topk(2, dim=2).values.sum(dim=2)
        kept = group_scores.topk(reading.topk_groups, dim=1).indices
        dropped = torch.ones_like(group_scores, dtype=torch.bool).scatter_(1, kept, False)
        biased = grouped.masked_fill(dropped.unsqueeze(2), -torch.inf).view_as(biased)
    chosen = biased.topk(reading.top_k, dim=1).indices
    picked = scores.gather(1, chosen)
    return chosen, picked / (picked.sum(dim=1, keepdim=True) + 1e-20) * scaling


def dequantise(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """float32 [R, C] from FP8 values and a scale per 128 x 128 block."""
    rows, columns = values.shape
    blocks = values.float().view(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
    return (blocks * scales.float()[:, None, :, None]).view(rows, columns)


@torch.no_grad()
def moe(reading: Reading, *inputs: Any) -> torch.Tensor:
    """The definition's output [T, H] bfloat16 from its inputs, in its order."""
    if reading.routing == "deepseek":
        logits, bias, x, x_scale, w1, s1, w2, s2, offset, scaling = inputs
    else:
        (logits, x, x_scale, w1, s1, w2, s2), bias, offset, scaling = inputs, None, 0, 1.0
    tokens = len(x)
    chosen, weights = route(reading, logits, bias, float(scaling))
    rows = (x.float().view(tokens, reading.hidden // BLOCK, BLOCK) * x_scale.float().t()[:, :, None]).view(
        tokens, reading.hidden
    )
    out = torch.zeros(tokens, reading.hidden, dtype=torch.float32, device=x.device)
    for expert in range(reading.local_experts):
        token, slot = torch.nonzero(chosen == int(offset) + expert, as_tuple=True)
        if not len(token):
            continue
        value, gate = (rows[token] @ dequantise(w1[expert], s1[expert]).t()).chunk(2, dim=1)
        inner = torch.nn.functional.silu(gate) * value
        out.index_add_(0, token, inner @ dequantise(w2[expert], s2[expert]).t() * weights[token, slot][:, None])
    return out.to(torch.bfloat16)
