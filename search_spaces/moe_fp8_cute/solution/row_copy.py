"""Permute as a role beside GEMM 1: spare warps copy token rows into row space while the tiles before are multiplied."""

from __future__ import annotations

from dataclasses import replace

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64

from .budget import BLOCK, GemmPlan
from .operands import Operands
from .sched import TileTable

VECTOR_BYTES = 16
FIRST_PIECES = 14
"""Loads of 16 bytes that a lane has in flight for the first rows, which somebody waits for."""
PIECES = 7
"""The same later on, in the registers of a producer warp."""


class RowCopy:
    """Copies the token rows of a launch's own tiles, in the order in which experts and their token tiles lie.

    Warps claim rows one by one by an atomic counter, so nobody depends on a CTA that has not started. Before its first
    tile every consumer warp copies rows until all those of the first tiles of all CTAs are claimed: one each where an
    expert has few token tiles, more where many are multiplied with the same weights. One producer warp per CTA copies
    the others. A tile's counter says how many of its rows are there; the row warp waits for all of them before its
    first TMA. The counters are zeroed by the routing kernel.

    Source: dispatch warps that pull rows beside the MMA are DeepGEMM's (Mega MoE); claims and counters are ours.
    """

    def __init__(self, plan: GemmPlan):
        self.plan = plan
        # With one weight tile and nothing shared a tile index counts token tiles.
        self.tiles = TileTable(replace(plan, order="weights", tile_w=plan.n, multicast="none", split_k=1))

    @cute.jit
    def first(self, operands: Operands, expert: Int32):
        """Copy rows of the experts up to ``expert``, one by one, until all are claimed; every consumer warp does."""
        p = self.plan
        cum = cute.make_rmem_tensor((self.tiles.chunks,), Int32)
        total = self.tiles.load(operands.counts, cum) * p.tile_t
        wanted = cutlass.min(self.tiles.upto(cum, expert) * p.tile_t, total)
        # While this warp copies a row, each of the others takes one.
        others = 4 * p.groups * p.ctas
        item = Int32(0) - others
        while item + others < wanted:
            item = self.claim(operands.ready)
            if item < total:
                self.copy(operands, cum, item, FIRST_PIECES)

    @cute.jit
    def rest(self, operands: Operands):
        """Copy rows until none is left; the next one is claimed ahead."""
        cum = cute.make_rmem_tensor((self.tiles.chunks,), Int32)
        total = self.tiles.load(operands.counts, cum) * self.plan.tile_t
        if total > 0:
            item = self.claim(operands.ready)
            while item < total:
                following = self.claim(operands.ready)
                self.copy(operands, cum, item, PIECES)
                item = following

    @cute.jit
    def claim(self, ready: cute.Tensor) -> Int32:
        """A row that nobody else copies, counted over whole tiles; the same in all lanes."""
        mine = Int32(0)
        if cute.arch.lane_idx() == 0:
            mine = cute.arch.atomic_add(ready.iterator, Int32(1), sem="relaxed", scope="gpu")
        return cute.arch.shuffle_sync(mine, offset=0)

    @cute.jit
    def copy(self, operands: Operands, cum: cute.Tensor, item: Int32, pieces: cutlass.Constexpr):
        """Copy row ``item``, values and scales, and count it; filling rows are left as they are."""
        p = self.plan
        tile = item // p.tile_t
        expert, token_tile, _, _ = self.tiles.find(cum, tile)
        inside = token_tile * p.tile_t + item - tile * p.tile_t
        if inside < operands.counts[expert]:
            row = operands.m_indptr[expert] + inside
            token = operands.row_token[row]
            lane = cute.arch.lane_idx()
            for block in cutlass.range(lane, p.k // BLOCK, 32, unroll=1):
                operands.xs[block, row] = Float32(operands.source_scale[block, token])
            self.values(operands.source, operands.x, token, row, pieces)
            # Ordinary stores, read by TMA elsewhere.
            cute.arch.fence_proxy("async.global")
            cute.arch.sync_warp()
            if lane == 0:
                pointer = self.counter(operands.ready, row)
                cute.arch.red(pointer, Int32(1), op="add", dtype="s32", sem="release", scope="gpu")

    @cute.jit
    def values(self, source, target, token: Int32, row: Int32, pieces: cutlass.Constexpr):
        """The FP8 values of a row, 512 bytes a piece, ``pieces`` of them in flight."""
        vectors = self.plan.k // VECTOR_BYTES
        lane = cute.arch.lane_idx()
        layout = cute.make_layout(VECTOR_BYTES)
        for begin in cutlass.range(0, vectors, 32 * pieces, unroll=1):
            r = cute.make_rmem_tensor(cute.make_layout((VECTOR_BYTES, pieces)), source.element_type)
            for i in cutlass.range_constexpr(pieces):
                at = begin + 32 * i + lane
                if at < vectors:
                    pointer = source.iterator + (Int64(token) * self.plan.k + VECTOR_BYTES * at)
                    cute.autovec_copy(cute.make_tensor(pointer.align(VECTOR_BYTES), layout), r[None, i])
            for i in cutlass.range_constexpr(pieces):
                at = begin + 32 * i + lane
                if at < vectors:
                    pointer = target.iterator + (Int64(row) * self.plan.k + VECTOR_BYTES * at)
                    cute.autovec_copy(r[None, i], cute.make_tensor(pointer.align(VECTOR_BYTES), layout))

    @cute.jit
    def wait(self, operands: Operands, expert: Int32, token_tile: Int32, row0: Int32):
        """Wait until all rows of a tile are there; TMA may read them then."""
        wanted = cutlass.min(operands.counts[expert] - token_tile * self.plan.tile_t, self.plan.tile_t)
        pointer = self.counter(operands.ready, row0)
        there = cute.arch.load(pointer, Int32, sem="acquire", scope="gpu")
        while there < wanted:
            there = cute.arch.load(pointer, Int32, sem="acquire", scope="gpu")
        cute.arch.fence_proxy("async.global")

    def counter(self, ready: cute.Tensor, row: Int32) -> cute.Pointer:
        """Where the copied rows of a row's tile are counted."""
        return ready.iterator + (1 + row // self.plan.tile_t)
