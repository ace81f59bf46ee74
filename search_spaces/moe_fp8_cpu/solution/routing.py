"""Which tokens go to which local expert, and where their rows lie.

In torch and numpy: it is a small share of the time (compiling it would cost each variant another second).
"""

from typing import NamedTuple

import numpy as np
import torch


def route(logits, bias, offset, scaling, sizes):
    """DeepSeek-V3 routing.

    Args:
        logits: float32 [T, E_global]. bias: bfloat16 [E_global].
        offset: First expert of this rank.
        scaling: Factor of the normalised weights.
        sizes: ``SIZES`` of the config.

    Returns:
        expert int64 [T, top_k]: local index of the chosen experts, -1 for those of other ranks; weight float32
        [T, top_k].
    """
    score = torch.sigmoid(logits)
    biased = score + bias.float()
    if sizes["topk_group"] < sizes["n_group"]:
        grouped = biased.view(len(logits), sizes["n_group"], -1)
        group_score = grouped.topk(2, dim=2, sorted=False).values.sum(dim=2)
        kept = group_score.topk(sizes["topk_group"], dim=1, sorted=False).indices
        dropped = torch.ones_like(group_score, dtype=torch.bool).scatter_(1, kept, False)
        biased = grouped.masked_fill(dropped.unsqueeze(2), -torch.inf).view_as(biased)
    chosen = biased.topk(sizes["top_k"], dim=1, sorted=False).indices
    weight = score.gather(1, chosen)
    weight = weight / (weight.sum(dim=1, keepdim=True) + 1e-20) * scaling
    local = chosen - offset
    local[(local < 0) | (local >= sizes["num_local_experts"])] = -1
    return local.numpy(), weight.numpy()


class Plan(NamedTuple):
    """Rows of the experts, in one buffer of R rows.

    ``starts`` int64 [E + 1]: expert e has the rows ``starts[e] .. starts[e + 1]``, of which the first ``filled[e]`` are
    computed. ``row_token`` int64 [R]: the token of a row, -1 in filling rows; ``row_weight`` float32 [R]: its weight.
    ``token_row`` int64 [T, top_k]: the row of a choice, R where its expert is not local.
    """

    starts: np.ndarray
    filled: np.ndarray
    row_token: np.ndarray
    row_weight: np.ndarray
    token_row: np.ndarray


def make_plan(expert, weight, num_local, align, layout):
    """Lay out the rows of all experts, those of one expert in the order of tokens.

    Args:
        expert: [T, top_k], local expert of each choice, -1 for another rank's.
        weight: float32 [T, top_k].
        num_local: Number of local experts E.
        align: Rows of a segment are a multiple of this.
        layout: ``flat`` (m_indptr): a segment has its expert's rows. ``batched`` and ``masked`` ([E, max_M, K]): every
            segment has the rows of the largest; ``batched`` computes all of them.
    """
    choice = expert.ravel()
    order = np.argsort(choice, kind="stable")
    counts = np.bincount(choice + 1, minlength=num_local + 1)
    order, counts = order[counts[0] :], counts[1:]
    filled = -(-counts // align) * align
    rows = filled if layout == "flat" else np.full_like(filled, filled.max())
    starts = np.concatenate(([0], np.cumsum(rows)))
    place = np.repeat(starts[:-1] - (np.cumsum(counts) - counts), counts) + np.arange(len(order))
    row_token = np.full(starts[-1], -1, np.int64)
    row_token[place] = order // expert.shape[1]
    row_weight = np.zeros(starts[-1], np.float32)
    row_weight[place] = weight.ravel()[order]
    token_row = np.full(choice.shape, starts[-1], np.int64)
    token_row[order] = place
    computed = rows if layout == "batched" else filled
    return Plan(starts, computed, row_token, row_weight, token_row.reshape(expert.shape))
