"""Triton kernel that copies hidden rows into the sorted order and names every row's expert."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _gather(x, x_scale, out, out_scale, row_expert, row_pair, block_expert, total_rows, tokens, capacity,
            WIDTH: tl.constexpr, BLOCKS: tl.constexpr, BLOCKS_PADDED: tl.constexpr, TOP_K: tl.constexpr,
            BLOCK_M: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    used = row < tl.load(total_rows)
    expert = tl.load(block_expert + row // BLOCK_M, mask=used, other=-1)
    tl.store(row_expert + row, expert)
    pair = tl.load(row_pair + row, mask=used, other=-1)
    if pair >= 0:
        token = (pair // TOP_K).to(tl.int64)
        b = tl.arange(0, BLOCKS_PADDED)
        column = b[:, None] * 128 + tl.arange(0, 128)[None, :]
        value = tl.load(x + token * WIDTH + column, mask=column < WIDTH)
        tl.store(out + row * WIDTH + column, value, mask=column < WIDTH)
        scale = tl.load(x_scale + b.to(tl.int64) * tokens + token, mask=b < BLOCKS)
        tl.store(out_scale + b.to(tl.int64) * capacity + row, scale, mask=b < BLOCKS)


def gather_rows(x: torch.Tensor, x_scale: torch.Tensor, rows) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """FP8 [P, H], scales [H / 128, P] and the expert of each row (-1 behind the rows in use)."""
    tokens, width = x.shape
    out = torch.empty(rows.capacity, width, dtype=x.dtype, device=x.device)
    scale = torch.empty(width // 128, rows.capacity, device=x.device)
    row_expert = torch.empty(rows.capacity, dtype=torch.int32, device=x.device)
    blocks = width // 128
    _gather[(rows.capacity,)](
        x.view(torch.uint8), x_scale, out.view(torch.uint8), scale, row_expert, rows.row_pair, rows.block_expert,
        rows.total_rows, tokens, rows.capacity, width, blocks, triton.next_power_of_2(blocks),
        rows.pair_row.shape[1], rows.block_m,
    )  # fmt: skip
    return out, scale, row_expert
