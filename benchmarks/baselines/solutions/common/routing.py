"""Triton kernels from router logits to padded, sorted token blocks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl


@triton.jit
def choose_experts(
    logits, bias, ids, weights, counts, scaling, offset,
    EXPERTS: tl.constexpr, PADDED: tl.constexpr, LOCAL: tl.constexpr, TOP_K: tl.constexpr, TOP_K_PADDED: tl.constexpr,
    GROUPS: tl.constexpr, KEPT_GROUPS: tl.constexpr, RENORM: tl.constexpr,
):  # fmt: skip
    """One program per token: ids [T, K] (local index or -1), weights [T, K], and a count per local expert."""
    token = tl.program_id(0).to(tl.int64)
    e = tl.arange(0, PADDED)
    inside = e < EXPERTS
    x = tl.load(logits + token * EXPERTS + e, mask=inside, other=float("-inf")).to(tl.float32)
    if RENORM:
        score = x
        key = x
    else:
        score = 1.0 / (1.0 + tl.exp(-x))
        key = tl.where(inside, score + tl.load(bias + e, mask=inside, other=0.0).to(tl.float32), float("-inf"))
    if GROUPS > 1:
        groups = tl.reshape(key, (GROUPS, EXPERTS // GROUPS))
        position = tl.arange(0, EXPERTS // GROUPS)[None, :]
        first = tl.max(groups, axis=1)
        rest = tl.where(position == tl.argmax(groups, axis=1)[:, None], float("-inf"), groups)
        total = first + tl.max(rest, axis=1)
        index = tl.arange(0, GROUPS)
        above = total[None, :] > total[:, None]
        before = (total[None, :] == total[:, None]) & (index[None, :] < index[:, None])
        rank = tl.sum((above | before).to(tl.int32), axis=1)
        key = tl.reshape(tl.where((rank < KEPT_GROUPS)[:, None], groups, float("-inf")), (PADDED,))
    slot = tl.arange(0, TOP_K_PADDED)
    picked = tl.zeros((TOP_K_PADDED,), tl.float32)
    chosen = tl.full((TOP_K_PADDED,), -1, tl.int32)
    for k in tl.static_range(TOP_K):
        best = tl.argmax(key, axis=0)
        picked = tl.where(slot == k, tl.sum(tl.where(e == best, score, 0.0)), picked)
        chosen = tl.where(slot == k, best, chosen)
        key = tl.where(e == best, float("-inf"), key)
    if RENORM:
        picked = tl.where(slot < TOP_K, picked, float("-inf"))
        picked = tl.exp(picked - tl.max(picked))
        weight = picked / tl.sum(picked)
    else:
        weight = picked / (tl.sum(picked) + 1e-20) * scaling
    local = chosen - offset
    mine = (slot < TOP_K) & (local >= 0) & (local < LOCAL)
    tl.store(ids + token * TOP_K + slot, tl.where(mine, local, -1), mask=slot < TOP_K)
    tl.store(weights + token * TOP_K + slot, weight, mask=slot < TOP_K)
    tl.atomic_add(counts + local, 1, mask=mine)


@triton.jit
def lay_out(counts, cursor, row_pair, block_expert, total_rows,
            LOCAL: tl.constexpr, PADDED: tl.constexpr, BLOCK_M: tl.constexpr):  # fmt: skip
    """One program per possible block: its expert, and -1 into its filling rows; the first one writes the first rows."""
    block = tl.program_id(0)
    e = tl.arange(0, PADDED)
    count = tl.load(counts + e, mask=e < LOCAL, other=0)
    filled = (count + BLOCK_M - 1) // BLOCK_M * BLOCK_M
    end = tl.cumsum(filled, axis=0)
    total = tl.sum(filled)
    if block == 0:
        tl.store(cursor + e, end - filled, mask=e < LOCAL)
        tl.store(total_rows, total)
    row = block * BLOCK_M
    if row < total:
        expert = tl.sum((end <= row).to(tl.int32))
        last = tl.sum(tl.where(e == expert, end - filled + count, 0))
        tl.store(block_expert + block, expert)
        rows = row + tl.arange(0, BLOCK_M)
        tl.store(row_pair + rows, -1, mask=rows >= last)


@triton.jit
def place_pairs(ids, cursor, row_pair, pair_row, pairs, BLOCK: tl.constexpr):
    """A row for every (token, choice) with a local expert; -1 for the others."""
    pair = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    expert = tl.load(ids + pair, mask=pair < pairs, other=-1)
    row = tl.atomic_add(cursor + expert, 1, mask=expert >= 0)
    tl.store(row_pair + row, pair, mask=expert >= 0)
    tl.store(pair_row + pair, tl.where(expert >= 0, row, -1), mask=pair < pairs)


@dataclass(frozen=True)
class Rows:
    """Sorted token blocks.

    Shapes:
        weights: [T, K] float32. row_pair: [P] int32, token * K + choice, -1 in filling rows. pair_row: [T, K] int32,
        -1 where not local. block_expert: [P / block_m] int32. total_rows: [1] int32, rows in use; what lies behind is
        undefined.
    """

    capacity: int
    block_m: int
    weights: torch.Tensor
    row_pair: torch.Tensor
    pair_row: torch.Tensor
    block_expert: torch.Tensor
    total_rows: torch.Tensor


def sorted_rows(sizes: dict, logits, bias, offset: int, scaling: float, block_m: int) -> Rows:
    """Three launches and one fill; nothing comes back to the host."""
    tokens, experts = logits.shape
    local, top_k, device = sizes["local_experts"], sizes["top_k"], logits.device
    capacity = tokens * min(top_k, local) + min(local, tokens * top_k) * (block_m - 1)
    capacity = -(-capacity // block_m) * block_m

    def ints(*shape):
        return torch.empty(shape, dtype=torch.int32, device=device)

    counts = torch.zeros(local, dtype=torch.int32, device=device)
    ids, cursor, total = ints(tokens, top_k), ints(local), ints(1)
    weights = torch.empty(tokens, top_k, device=device)
    row_pair, pair_row, block_expert = ints(capacity), ints(tokens, top_k), ints(capacity // block_m)
    choose_experts[(tokens,)](
        logits, logits if bias is None else bias, ids, weights, counts, scaling, offset,
        experts, triton.next_power_of_2(experts), local, top_k, triton.next_power_of_2(top_k),
        sizes["groups"], sizes["topk_groups"], bias is None, num_warps=1,
    )  # fmt: skip
    lay_out[(capacity // block_m,)](
        counts, cursor, row_pair, block_expert, total, local, triton.next_power_of_2(local), block_m
    )
    pairs = tokens * top_k
    place_pairs[(triton.cdiv(pairs, 256),)](ids, cursor, row_pair, pair_row, pairs, 256)
    return Rows(capacity, block_m, weights, row_pair, pair_row, block_expert, total)
