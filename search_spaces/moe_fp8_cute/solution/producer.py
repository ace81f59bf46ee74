"""Producer warps of the grouped GEMM: weight tiles, token rows and token scales on their way into a stage."""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64
from cutlass.cute.nvgpu import cpasync

from .budget import BLOCK, GemmPlan
from .feed import Feed
from .operands import Operands
from .row_copy import RowCopy
from .sched import TileTable

EVICT_LAST = 0x14F0000000000000
"""TMA cache policy: these lines leave the L2 last. Token rows are read by every weight tile of their expert."""


class Producer:
    """The three producer roles of one plan. Each walks the tiles on its own and keeps its own stage and phase."""

    def __init__(self, plan: GemmPlan, table: TileTable):
        self.plan = plan
        self.table = table
        self.feed = Feed(plan)
        self.row_copy = RowCopy(plan) if plan.copies else None
        self.row_warps = plan.gather_threads // 32 if plan.gather else 1

    @cute.jit
    def start(self, counts, cum) -> tuple[Int32, Int32, Int32]:
        """(tiles, first tile, rank in the cluster) of this CTA; fills the tile table."""
        p = self.plan
        total = self.table.load(counts, cum) * self.table.per_token_tile
        rank = self.rank()
        return total, cute.arch.block_idx()[0] // p.cluster, rank

    def rank(self) -> Int32:
        """Rank of this CTA among those that take a tile together."""
        return cute.arch.block_idx_in_cluster() if self.plan.cluster > 1 else Int32(0)

    @cute.jit
    def advance(self, stage: Int32, phase: Int32) -> tuple[Int32, Int32]:
        """The next stage of the ring; the phase flips at its end."""
        stage = stage + 1
        if stage == self.plan.stages:
            stage = Int32(0)
            phase = phase ^ 1
        return stage, phase

    @cute.jit
    def following(self, tile: Int32, queue, done: Int32) -> Int32:
        """The tile after this thread's tile number ``done``."""
        if cutlass.const_expr(self.plan.fed):
            tile = self.feed.next(queue, done)
        else:
            tile = tile + self.plan.ctas // self.plan.cluster
        return tile

    @cute.jit
    def serve(self, operands: Operands, queue, alone):
        """GEMM 1: count tiles that are finished. GEMM 2: claim tiles for the cluster. An idle warp of each CTA does."""
        p = self.plan
        self.wait(alone)
        cum = cute.make_rmem_tensor((self.table.chunks,), Int32)
        total, tile, rank = self.start(operands.counts, cum)
        height = self.table.height(operands.counts)
        done = Int32(0)
        while tile < total:
            if cutlass.const_expr(p.fed):
                if rank == 0:
                    self.feed.claim(queue, operands, done)
            else:
                expert, token_tile, _weight_tile, _part, _together = self.table.place(cum, tile, rank)
                self.feed.count(queue, operands, operands.m_indptr[expert] + token_tile * height, done)
            tile = self.following(tile, queue, done)
            done = done + 1

    @cute.jit
    def wait(self, alone):
        """Wait for the kernels before where nobody has done so; ``alone`` as :meth:`TileTable.enter` gives it."""
        if cutlass.const_expr(self.plan.waits):
            cute.arch.griddepcontrol_wait()
        elif cutlass.const_expr(self.plan.leaves and self.plan.pdl and not self.plan.fed):
            if alone:
                cute.arch.griddepcontrol_wait()

    @cute.jit
    def weights(self, atom, tma_w, operands: Operands, sW, full, empty, queue, tiler: cutlass.Constexpr, alone):
        """Stream weight tiles; needs nothing of the previous kernel but the counts. May clear the output on the way."""
        p = self.plan
        if cutlass.const_expr(not p.early_weights):
            self.wait(alone)
        cpasync.prefetch_descriptor(atom)
        parts = cute.group_modes(cute.zipped_divide(tma_w, tiler), 0, 1)
        cum = cute.make_rmem_tensor((self.table.chunks,), Int32)
        total, tile, rank = self.start(operands.counts, cum)
        shares = 2 if p.multicast == "weights" else 1
        own = rank if cutlass.const_expr(shares == 2) else 0
        tWs, tWg = cpasync.tma_partition(atom, own, cute.make_layout(shares), cute.group_modes(sW, 0, 2), parts)
        oWs, oWg = cpasync.tma_partition(
            atom, shares - 1 - own, cute.make_layout(shares), cute.group_modes(sW, 0, 2), parts
        )
        at, vectors, steps = Int32(0), Int32(0), Int32(0)
        if cutlass.const_expr(self.clears_along(operands)):
            at = cute.arch.block_idx()[0] * 32 + cute.arch.lane_idx()
            vectors = self.to_clear(operands.zeroed, operands.counts)
            blocks = (total - tile + (p.ctas // p.cluster - 1)) // (p.ctas // p.cluster) * p.k_blocks
            if cutlass.const_expr(p.by_tiles):
                # Whoever adds to it starts before the last tiles.
                blocks = blocks - blocks // 4
            each = 32 * p.ctas * cutlass.max(blocks, 1)
            steps = (vectors + (each - 1)) // each
        stage, phase, done, cleared = Int32(0), Int32(1), Int32(0), Int32(0)
        while tile < total:
            expert, _token_tile, weight_tile, part, together = self.table.place(cum, tile, rank)
            for k in cutlass.range(p.k_blocks, unroll=1):
                cute.arch.mbarrier_wait(empty + stage, phase)
                with cute.arch.elect_one():
                    cute.arch.mbarrier_arrive_and_expect_tx(full + stage, p.tile_w * BLOCK)
                box = (None, (weight_tile, part * p.k_blocks + k, expert))
                if cutlass.const_expr(shares == 1):
                    cute.copy(atom, tWg[box], tWs[(None, stage)], tma_bar_ptr=full + stage)
                else:
                    # This CTA's half to both of them, or, where they want different tiles, both halves to itself.
                    mask = cutlass.Int16(3 if together else 1 << rank)
                    cute.copy(atom, tWg[box], tWs[(None, stage)], tma_bar_ptr=full + stage, mcast_mask=mask)
                    if not together:
                        cute.copy(atom, oWg[box], oWs[(None, stage)], tma_bar_ptr=full + stage, mcast_mask=mask)
                if cutlass.const_expr(self.clears_along(operands)):
                    at = self.clear(operands.zeroed, at, cutlass.min(vectors, at + 32 * p.ctas * steps))
                stage, phase = self.advance(stage, phase)
            if cutlass.const_expr(self.clears_along(operands) and p.by_tiles):
                # The same in all lanes: the last one is done.
                if vectors > 0 and cleared == 0 and at - cute.arch.lane_idx() >= vectors:
                    self.feed.cleared(operands)
                    cleared = Int32(1)
            tile = self.following(tile, queue, done)
            if cutlass.const_expr(p.fed):
                done = done + 1
        if cutlass.const_expr(self.clears_along(operands)):
            self.clear(operands.zeroed, at, vectors)
            if cutlass.const_expr(p.by_tiles):
                if vectors > 0 and cleared == 0:
                    self.feed.cleared(operands)

    @cute.jit
    def rows(self, atom, tma_x, operands: Operands, sX, sS, full, empty, queue, alone):
        """Token rows that lie in row space: a TMA box per accumulator along the tokens, a bulk copy of scales.

        Where the launch copies them there itself, or the one before is still making them, a tile's rows are waited for.

        Boxes whose rows are all filling are left out. Where the CTAs of a cluster share tokens, each fetches its share
        of a box and delivers it to all of them.
        """
        p = self.plan
        self.wait(alone)
        height = self.table.height(operands.counts)
        cum = cute.make_rmem_tensor((self.table.chunks,), Int32)
        total, tile, rank = self.start(operands.counts, cum)
        shares = p.multicast_ctas if p.multicast == "tokens" else 1
        mask = cutlass.Int16((1 << shares) - 1)
        stage, phase, done = Int32(0), Int32(1), Int32(0)
        while tile < total:
            expert, token_tile, _weight_tile, part, _together = self.table.place(cum, tile, rank)
            row0 = operands.m_indptr[expert] + token_tile * height
            if cutlass.const_expr(p.copies):
                self.row_copy.wait(operands, expert, token_tile, row0)
            if cutlass.const_expr(p.fed):
                self.feed.wait_rows(operands, row0)
            gX = cute.local_tile(cute.domain_offset((row0, 0), tma_x), (p.box_t, BLOCK), (None, None))
            parts = cute.zipped_divide(sX, (p.box_t, BLOCK))
            tXs, tXg = cpasync.tma_partition(
                atom, rank if shares > 1 else 0, cute.make_layout(shares), parts, cute.group_modes(gX, 0, 2)
            )
            boxes = Int32(1)
            for t in cutlass.range_constexpr(1, p.token_subs):
                boxes = boxes + (1 if operands.counts[expert] - token_tile * p.tile_t > p.box_t * t else 0)
            for k in cutlass.range(p.k_blocks, unroll=1):
                block = part * p.k_blocks + k
                cute.arch.mbarrier_wait(empty + stage, phase)
                source = operands.xs.iterator.toint() + 4 * (Int64(block) * operands.xs.stride[0] + row0)
                with cute.arch.elect_one():
                    self.bulk_copy(sS.iterator + stage * p.tile_t, source, 4 * height, full + stage)
                    cute.arch.mbarrier_arrive_and_expect_tx(full + stage, boxes * (p.box_t * BLOCK) + 4 * height)
                for t in cutlass.range_constexpr(p.token_subs):
                    if t < boxes:
                        gBox, sBox = tXg[(None, t, block)], tXs[(None, (t, 0, (0, stage)))]
                        options = {"tma_bar_ptr": full + stage, "cache_policy": Int64(EVICT_LAST)}
                        if cutlass.const_expr(shares > 1):
                            cute.copy(atom, gBox, sBox, mcast_mask=mask, **options)
                        else:
                            cute.copy(atom, gBox, sBox, **options)
                stage, phase = self.advance(stage, phase)
            tile = self.following(tile, queue, done)
            if cutlass.const_expr(p.fed):
                done = done + 1

    def bulk_copy(self, target, source: Int64, size: Int32, barrier) -> None:
        """``cp.async.bulk`` of ``size`` bytes (a multiple of 16) from global to shared memory by the calling thread."""
        cute.arch.inline_ptx(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [{$r0}], [{$r1}], {$r2}, [{$r3}];",
            read_only_args=[target.toint(), source, size, barrier.toint()],
        )

    @cute.jit
    def gather(self, operands: Operands, sX, sS, full, empty, alone):
        """Token rows by index: 16-byte cp.async straight into the swizzled stage; filling rows are zeroed.

        Eight threads copy one 128-byte row. The 128-byte swizzle exchanges the eight 16-byte chunks of a row by the
        row's index modulo 8.
        """
        p = self.plan
        self.wait(alone)
        height = self.table.height(operands.counts)
        thread = cute.arch.thread_idx()[0] - 32
        threads = p.gather_threads
        step = threads // 8
        chunk = thread % 8
        row = thread // 8
        copies = p.tile_t // step
        scale_copies = (p.tile_t + threads - 1) // threads
        cum = cute.make_rmem_tensor((self.table.chunks,), Int32)
        total, tile, rank = self.start(operands.counts, cum)
        token = cute.make_rmem_tensor((copies,), Int32)
        scale_token = cute.make_rmem_tensor((scale_copies,), Int32)
        base = sX.iterator.toint()
        x_base = operands.x.iterator.toint() + 16 * chunk
        stage, phase = Int32(0), Int32(1)
        while tile < total:
            expert, token_tile, _weight_tile, part, _together = self.table.place(cum, tile, rank)
            row0 = operands.m_indptr[expert] + token_tile * height
            count = cutlass.min(operands.counts[expert] - token_tile * height, height)
            for i in cutlass.range_constexpr(copies):
                token[i] = Int32(-1)
                if row + i * step < height:
                    token[i] = operands.row_token[row0 + row + i * step]
            for i in cutlass.range_constexpr(scale_copies):
                scale_token[i] = Int32(-1)
                if thread + i * threads < height:
                    scale_token[i] = operands.row_token[row0 + thread + i * threads]
            for k in cutlass.range(p.k_blocks, unroll=1):
                block = part * p.k_blocks + k
                cute.arch.mbarrier_wait(empty + stage, phase)
                # A tile that is multiplied with a narrow MMA has no use for the rows behind that.
                always = min(copies, p.narrow // step) if p.narrow else copies
                for i in cutlass.range_constexpr(always):
                    self.copy_row(base, x_base, token[i], row + i * step, chunk, stage, block)
                if cutlass.const_expr(always < copies):
                    if count > p.narrow:
                        for i in cutlass.range_constexpr(always, copies):
                            self.copy_row(base, x_base, token[i], row + i * step, chunk, stage, block)
                for i in cutlass.range_constexpr(scale_copies):
                    if thread + i * threads < p.tile_t:
                        target = (sS.iterator + (stage * p.tile_t + thread + i * threads)).toint()
                        source = operands.xs.iterator.toint() + 4 * (
                            Int64(block) * operands.xs.stride[0] + cutlass.max(scale_token[i], 0)
                        )
                        self.copy_async(target, source, 4, scale_token[i] >= 0)
                cute.arch.cp_async_mbarrier_arrive_noinc(full + stage)
                stage, phase = self.advance(stage, phase)
            tile = tile + p.ctas // p.cluster

    def copy_row(self, base: Int32, x_base: Int64, token: Int32, row: Int32, chunk: Int32, stage: Int32, block: Int32):
        """One 16-byte chunk of one K block of a tile's row; zeros where there is no token."""
        p = self.plan
        target = base + stage * (p.tile_t * BLOCK) + row * BLOCK + ((chunk ^ (row & 7)) << 4)
        source = x_base + Int64(cutlass.max(token, 0)) * p.k + block * BLOCK
        self.copy_async(target, source, 16, token >= 0)

    def copy_async(self, target: Int32, source: Int64, size: int, valid: cutlass.Boolean) -> None:
        """``cp.async`` of 4 or 16 bytes; zeros where not valid."""
        cache = "cg" if size == 16 else "ca"
        cute.arch.inline_ptx(
            f"cp.async.{cache}.shared.global [{{$r0}}], [{{$r1}}], {size}, {{$r2}};",
            read_only_args=[target, source, Int32(valid) * size],
        )

    @cute.jit
    def zero(self, target, counts, warps: cutlass.Constexpr = 1):
        """Fill a row-major [T, H] bfloat16 tensor with zeros: 512 bytes per step of each of the ``warps``, CTA by CTA.

        Of launches that share the experts, one of many rows does it beside its long main loops, where there are any.
        """
        if cutlass.const_expr(self.plan.waits):
            cute.arch.griddepcontrol_wait()
        vectors = self.to_clear(target, counts)
        if cutlass.const_expr(warps == 1):
            at = cute.arch.block_idx()[0] * 32 + cute.arch.lane_idx()
        else:
            at = cute.arch.block_idx()[0] * (32 * warps) + cute.arch.thread_idx()[0] % (32 * warps)
        self.clear(target, at, vectors, warps)

    def clears_along(self, operands: Operands) -> bool:
        """Whether the weight warp clears the output as it goes."""
        return operands.zeroed is not None and self.plan.clear == "along"

    @cute.jit
    def to_clear(self, target, counts) -> Int32:
        """How many 16-byte pieces of ``target`` this launch fills with zeros."""
        vectors = Int32(target.shape[0] * (target.shape[1] // 8))
        if cutlass.const_expr(self.plan.above + self.plan.upto > 0):
            forms = self.table.forms(counts)
            mine = (forms & 6) == 0 if cutlass.const_expr(self.plan.upto > 0) else (forms & self.plan.form) != 0
            vectors = vectors if mine else 0
        return vectors

    @cute.jit
    def clear(self, target, at: Int32, vectors: Int32, warps: cutlass.Constexpr = 1) -> Int32:
        """Fill this lane's pieces from ``at`` up to ``vectors`` with zeros; returns its next one."""
        while at < vectors:
            # Streaming stores: the zeros are not read before GEMM 2 and should not push weights out of the L2.
            pointer = (target.iterator + 8 * Int64(at)).toint()
            cute.arch.inline_ptx("st.global.cs.v4.b32 [{$r0}], {0, 0, 0, 0};", read_only_args=[pointer])
            at = at + 32 * warps * self.plan.ctas
        return at
