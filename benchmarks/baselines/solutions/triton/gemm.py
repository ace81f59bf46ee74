"""Grouped block-scaled FP8 GEMM over sorted token blocks, with an optional gather of the rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl


@dataclass(frozen=True)
class Tile:
    """Launch choices of the GEMMs, from the mean number of rows per expert."""

    block_m: int
    num_warps: int
    num_stages: int
    group_m: int


def tile_for(pairs: int, experts: int) -> Tile:
    """Small batches read weights and waste little on padding; large ones want arithmetic per byte of shared memory."""
    mean = pairs / experts
    if mean <= 16:
        return Tile(16, 4, 4, 1)
    if mean <= 64:
        return Tile(64, 4, 3, 8)
    return Tile(128, 8, 3, 16)


@triton.jit
def _grouped_gemm(
    a, a_scale, b, b_scale, c, row_pair, block_expert, total_rows, scale_stride,
    N: tl.constexpr, K: tl.constexpr, TOP_K: tl.constexpr, GATHER: tl.constexpr,
    BLOCK_M: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    BLOCK: tl.constexpr = 128
    program = tl.program_id(0)
    n_blocks: tl.constexpr = N // BLOCK
    total = tl.load(total_rows)
    m_blocks = total // BLOCK_M
    # Blocks of GROUP_M rows of tiles share their weights in the L2.
    group = program // (GROUP_M * n_blocks)
    tall = tl.minimum(m_blocks - group * GROUP_M, GROUP_M)
    if tall > 0:
        inside = program - group * GROUP_M * n_blocks
        if inside < tall * n_blocks:
            block_m = group * GROUP_M + inside % tall
            block_n = inside // tall
            expert = tl.load(block_expert + block_m).to(tl.int64)
            row = block_m * BLOCK_M + tl.arange(0, BLOCK_M)
            pair = tl.load(row_pair + row)
            live = pair >= 0
            source = row.to(tl.int64)
            if GATHER:
                source = tl.where(live, pair // TOP_K, 0).to(tl.int64)
            k = tl.arange(0, BLOCK)
            n = block_n * BLOCK + tl.arange(0, BLOCK)
            a_at = a + source[:, None] * K + k[None, :]
            b_at = b + expert * (N * K) + n[None, :] * K + k[:, None]
            a_scale_at = a_scale + source
            b_scale_at = b_scale + (expert * n_blocks + block_n) * (K // BLOCK)
            acc = tl.zeros((BLOCK_M, BLOCK), tl.float32)
            for _ in range(K // BLOCK):
                part = tl.dot(tl.load(a_at, mask=live[:, None], other=0.0), tl.load(b_at))
                factor = tl.load(a_scale_at, mask=live, other=0.0) * tl.load(b_scale_at)
                acc += part * factor[:, None]
                a_at += BLOCK
                b_at += BLOCK
                a_scale_at += scale_stride
                b_scale_at += 1
            tl.store(c + row.to(tl.int64)[:, None] * N + n[None, :], acc.to(c.dtype.element_ty), mask=live[:, None])


def grouped_gemm(a, a_scale, b, b_scale, rows, tile: Tile, gather: bool) -> torch.Tensor:
    """bfloat16 [P, N]: row r is ``a``'s row (its token's with ``gather``) times its expert's weights.

    Shapes:
        a: [T or P, K] FP8. a_scale: [K / 128, T or P]. b: [E_local, N, K] FP8. b_scale: [E_local, N / 128, K / 128].
    """
    _, n, k = b.shape
    out = torch.empty(rows.capacity, n, dtype=torch.bfloat16, device=a.device)
    grid = (triton.cdiv(rows.capacity // tile.block_m, tile.group_m) * tile.group_m * (n // 128),)
    _grouped_gemm[grid](
        a, a_scale, b, b_scale, out, rows.row_pair, rows.block_expert, rows.total_rows, a_scale.stride(0),
        n, k, rows.pair_row.shape[1], gather, tile.block_m, tile.group_m,
        num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    return out
