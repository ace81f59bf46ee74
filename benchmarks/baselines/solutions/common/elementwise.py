"""Triton kernels between and behind the GEMMs: SwiGLU with requantisation, weighted sum."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 128
PROGRAMS = 132 * 16


@triton.jit
def _swiglu_quantise(x, out, scale, row_pair, total_rows, capacity,
                     WIDTH: tl.constexpr, BLOCKS: tl.constexpr, BLOCKS_PADDED: tl.constexpr):  # fmt: skip
    b = tl.arange(0, BLOCKS_PADDED)
    column = b[:, None] * 128 + tl.arange(0, 128)[None, :]
    inside = column < WIDTH
    total = tl.load(total_rows)
    row = tl.program_id(0)
    while row < total:
        if tl.load(row_pair + row) >= 0:
            start = row.to(tl.int64) * (2 * WIDTH)
            up = tl.load(x + start + column, mask=inside, other=0.0).to(tl.float32)
            gate = tl.load(x + start + WIDTH + column, mask=inside, other=0.0).to(tl.float32)
            h = gate / (1.0 + tl.exp(-gate)) * up
            s = tl.maximum(tl.max(tl.abs(h), axis=1), 1e-30) / 448.0
            q = (h / s[:, None]).to(out.dtype.element_ty)
            tl.store(out + row.to(tl.int64) * WIDTH + column, q, mask=inside)
            tl.store(scale + b.to(tl.int64) * capacity + row, s, mask=b < BLOCKS)
        row += tl.num_programs(0)


@triton.jit
def _weighted_sum(y, weights, pair_row, out, WIDTH: tl.constexpr, TOP_K: tl.constexpr, PIECE: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * PIECE + tl.arange(0, PIECE)
    inside = column < WIDTH
    total = tl.zeros((PIECE,), tl.float32)
    for k in tl.static_range(TOP_K):
        row = tl.load(pair_row + token * TOP_K + k)
        if row >= 0:
            value = tl.load(y + row.to(tl.int64) * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
            total += value * tl.load(weights + token * TOP_K + k)
    tl.store(out + token * WIDTH + column, total.to(out.dtype.element_ty), mask=inside)


def swiglu_quantise(x: torch.Tensor, rows) -> tuple[torch.Tensor, torch.Tensor]:
    """FP8 [P, I] and scales [I / 128, P] of silu(second half) * first half of ``x`` [P, 2 I] bfloat16."""
    capacity, width = x.shape[0], x.shape[1] // 2
    out = torch.empty(capacity, width, dtype=torch.float8_e4m3fn, device=x.device)
    scale = torch.empty(width // BLOCK, capacity, device=x.device)
    blocks = width // BLOCK
    _swiglu_quantise[(min(capacity, PROGRAMS),)](
        x, out, scale, rows.row_pair, rows.total_rows, capacity, width, blocks, triton.next_power_of_2(blocks)
    )
    return out, scale


def weighted_sum(y: torch.Tensor, rows, out: torch.Tensor) -> None:
    """``out[t] = sum over k of weight * y[row]``, zeros for tokens without local experts."""
    tokens, width = out.shape
    top_k = rows.pair_row.shape[1]
    _weighted_sum[(tokens, triton.cdiv(width, 1024))](y, rows.weights, rows.pair_row, out, width, top_k, 1024)
