"""Producer warps of Blackwell's grouped GEMM: the roles of producer.py with multicast, CTA pairs and gather by TMA."""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Int32, Int64, Uint64
from cutlass.cute.nvgpu import cpasync

from .budget import BLOCK
from .budget_sm100 import BlackwellPlan
from .operands import Operands
from .producer import Producer
from .sched import TileTable


def by_rank(rank: Int32, values: list[int]) -> Int32:
    """``values[rank]`` of a list of up to eight constants below 256."""
    if len(set(values)) == 1:
        return Int32(values[0])
    packed = Uint64(sum(value << 8 * r for r, value in enumerate(values)))
    return Int32((packed >> Uint64(8 * rank)) & Uint64(255))


class ProducerSm100(Producer):
    """Weight tiles, token rows and token scales on their way into a stage.

    ``full[s]`` counts bytes and arrivals of both operands; in a pair of CTAs everything arrives on the leader's, whose
    MMA warp waits for it. ``scale_full[s]`` counts the token scales, always in the CTA that loads them. A multicast
    operand comes in equal boxes: each CTA that needs it loads one and delivers it to all.
    """

    plan: BlackwellPlan

    def __init__(self, plan: BlackwellPlan, table: TileTable):
        super().__init__(plan, table)
        self.row_warps = plan.gather_threads // 32 if plan.gather else 1
        self.falls_back = plan.least < plan.cluster

    def rank(self) -> Int32:
        # Clusters of any size are cut from the grid in order, so those of ``least`` CTAs are parts of the whole ones.
        return cute.arch.block_idx()[0] % self.plan.cluster if self.falls_back else super().rank()

    def whole(self) -> Boolean:
        """Whether this CTA is in a cluster of the plan's size."""
        return cute.arch.block_in_cluster_dim()[0] == self.plan.cluster if self.falls_back else Boolean(True)

    @cute.jit
    def of_size(self, whole: Int32, part: Int32) -> Int32:
        """The value for a whole cluster, or that for one of ``least`` CTAs."""
        value = part
        if self.whole():
            value = whole
        return value

    def pick(self, rank: Int32, whole: list[int], part: list[int]) -> Int32:
        """The value of this CTA, of those for the ranks of whole clusters, in a whole or in a smaller cluster."""
        mine = by_rank(rank, whole)
        return self.of_size(mine, by_rank(rank, part)) if self.falls_back else mine

    def here(self, rank: Int32) -> Int32:
        """Rank of this CTA in the cluster that it is in."""
        return self.of_size(rank, rank % self.plan.least) if self.falls_back else rank

    def empty_arrivals(self) -> Int32:
        """Arrivals on an ``empty`` barrier in this cluster."""
        p = self.plan
        both = p.empty_arrivals, p.near_empty_arrivals
        return self.of_size(*map(Int32, both)) if self.falls_back else both[0]

    def empties(self, rank: Int32) -> Int32:
        """Mask of the CTAs whose ``empty`` barrier this one arrives on."""
        p = self.plan
        masks = [[mask(r) for r in range(p.cluster)] for mask in (p.commit_mask, p.near_commit_mask)]
        return self.pick(rank, *masks)

    def share(self, rank: Int32, peers: list[tuple[int, ...]]) -> tuple[Int32, Int32, int]:
        """What this CTA loads of an operand that the ranks ``peers[rank]`` share.

        Returns:
            The first of its boxes; the mask of the CTAs that it delivers them to; how many they are in a cluster of
            ``least`` CTAs, where it loads for those that are not there. In a whole cluster it loads one.
        """
        p = self.plan
        near = [p.near(r, mine) for r, mine in enumerate(peers)]
        boxes = len(peers[0]) // len(near[0])
        first = self.pick(
            rank,
            [mine.index(r) for r, mine in enumerate(peers)],
            [boxes * mine.index(r) for r, mine in enumerate(near)],
        )
        mask = self.pick(
            rank, [sum(1 << r for r in mine) for mine in peers], [sum(1 << r % p.least for r in mine) for mine in near]
        )
        return first, mask, boxes

    def leader(self, rank: Int32) -> Boolean:
        """Whether this CTA's barriers count what arrives."""
        return rank % 2 == 0 if self.plan.pair else Boolean(True)

    def few(self, counts: cute.Tensor, expert: Int32, token_tile: Int32) -> Boolean:
        """Whether a token tile of an expert has so few rows that it is multiplied with the narrow MMA."""
        p = self.plan
        return counts[expert] - token_tile * p.tile_t <= p.narrow

    @cute.jit
    def multiplied(self, counts: cute.Tensor, expert: Int32, token_tile: Int32) -> Int32:
        """Token rows of this CTA that the MMA of a tile reads; in a pair that splits the tokens, half of its N."""
        p = self.plan
        rows = Int32(p.token_rows)
        if cutlass.const_expr(p.narrow > 0):
            if self.few(counts, expert, token_tile):
                rows = Int32(p.narrow // p.token_halves)
        return rows

    @cute.jit
    def expect(self, barrier, size: Int32, leads: Boolean):
        """One arrival, and ``size`` more bytes to wait for."""
        if leads:
            with cute.arch.elect_one():
                cute.arch.mbarrier_arrive_and_expect_tx(barrier, size)

    @cute.jit
    def tail(self, empty, stage: Int32, phase: Int32):
        """Wait for the last arrivals from other CTAs: they must not reach the shared memory of a CTA that has left."""
        if cutlass.const_expr(self.plan.cluster > 1):
            for _ in cutlass.range_constexpr(self.plan.stages):
                cute.arch.mbarrier_wait(empty + stage, phase)
                stage, phase = self.advance(stage, phase)

    def copy(self, atom, source, target, barrier, peers: int, mask: Int32) -> None:
        """One TMA box, multicast where several CTAs share it."""
        if peers > 1:
            cute.copy(atom, source, target, tma_bar_ptr=barrier, mcast_mask=cutlass.Int16(mask))
        else:
            cute.copy(atom, source, target, tma_bar_ptr=barrier)

    @cute.jit
    def weights(self, atom, tma_w, sW, full, empty, counts, tiler: cutlass.Constexpr, alone):
        """Stream weight tiles; needs nothing of the previous kernel but the counts."""
        p = self.plan
        if cutlass.const_expr(not p.early_weights):
            self.wait(alone)
        cpasync.prefetch_descriptor(atom)
        rows = p.tile_w // p.weight_pieces
        cum = cute.make_rmem_tensor((self.table.chunks,), Int32)
        total, tile, rank = self.start(counts, cum)
        peers = len(p.weight_peers(0))
        share, mask, times = self.share(rank, [p.weight_peers(r) for r in range(p.cluster)])
        across, leads = p.place(rank)[0], self.leader(rank)
        half = rank % 2 if cutlass.const_expr(p.weight_halves == 2) else Int32(0)
        parts = cute.group_modes(cute.zipped_divide(tma_w, tiler), 0, 1)
        count, whole = times * p.weight_copies, self.whole()
        boxes = [self.box(atom, sW, parts, rows, share * p.weight_copies + i) for i in range(count)]
        stage, phase = Int32(0), Int32(1)
        while tile < total:
            expert, _token_tile, group, part = self.table.find(cum, tile)
            piece = (half * peers + share) * p.weight_copies
            first = [p.weight_box(group * p.cluster_w + across, piece + i) for i in range(count)]
            for k in cutlass.range(p.k_blocks // p.k_per_stage, unroll=1):
                cute.arch.mbarrier_wait(empty + stage, phase)
                self.expect(full + stage, p.weight_bytes, leads)
                for u in cutlass.range_constexpr(p.k_per_stage):
                    block = part * p.k_blocks + k * p.k_per_stage + u
                    at = [(None, (box, block, expert)) for box in first]
                    slot = (None, stage * p.k_per_stage + u)
                    for i in cutlass.range_constexpr(p.weight_copies):
                        self.copy(atom, boxes[i][1][at[i]], boxes[i][0][slot], full + stage, peers, mask)
                    if cutlass.const_expr(times > 1):
                        if not whole:
                            for i in cutlass.range_constexpr(p.weight_copies, count):
                                self.copy(atom, boxes[i][1][at[i]], boxes[i][0][slot], full + stage, peers, mask)
                stage, phase = self.advance(stage, phase)
            tile = tile + p.ctas // p.cluster
        self.tail(empty, stage, phase)

    def box(self, atom, sW, parts, rows: int, index: Int32) -> tuple:
        """(shared memory, global memory) of the TMA boxes that fill rows ``rows * index`` and on of every slot."""
        box = cute.local_tile(sW, (rows, BLOCK, self.plan.stages * self.plan.k_per_stage), (index, 0, 0))
        return cpasync.tma_partition(atom, 0, cute.make_layout(1), cute.group_modes(box, 0, 2), parts)

    @cute.jit
    def rows(self, atom, tma_x, operands: Operands, sX, sS, full, empty, scale_full, alone):
        """Token rows that lie in row space: a TMA box and a bulk copy of scales per K block."""
        p = self.plan
        self.wait(alone)
        rows = p.tile_t // p.token_pieces
        cum = cute.make_rmem_tensor((self.table.chunks,), Int32)
        total, tile, rank = self.start(operands.counts, cum)
        peers = len(p.token_peers(0))
        share, mask, times = self.share(rank, [p.token_peers(r) for r in range(p.cluster)])
        whole = self.whole()
        across, leads = p.place(rank)[1], self.leader(rank)
        half = rank % 2 if cutlass.const_expr(p.token_halves == 2) else Int32(0)
        boxes = [
            cute.group_modes(cute.local_tile(sX, (rows, BLOCK, p.stages * p.k_per_stage), (share + i, 0, 0)), 0, 2)
            for i in range(times)
        ]
        stage, phase = Int32(0), Int32(1)
        while tile < total:
            expert, token_tile, _group, part = self.table.find(cum, tile)
            row0 = operands.m_indptr[expert] + (token_tile * p.cluster_t + across) * p.tile_t
            read = self.multiplied(operands.counts, expert, token_tile * p.cluster_t + across)
            first = row0 + half * read + share * rows
            parts = []
            for i in cutlass.range_constexpr(times):
                gX = cute.local_tile(cute.domain_offset((first + i * rows, 0), tma_x), (rows, BLOCK), (0, None))
                layout = cute.make_layout(1)
                parts.append(cpasync.tma_partition(atom, 0, layout, boxes[i], cute.group_modes(gX, 0, 2)))
            for k in cutlass.range(p.k_blocks // p.k_per_stage, unroll=1):
                cute.arch.mbarrier_wait(empty + stage, phase)
                self.expect(full + stage, p.token_bytes, leads)
                self.expect(scale_full + stage, p.scale_bytes, Boolean(True))
                for u in cutlass.range_constexpr(p.k_per_stage):
                    block = part * p.k_blocks + k * p.k_per_stage + u
                    slot = stage * p.k_per_stage + u
                    source = operands.xs.iterator.toint() + 4 * (Int64(block) * operands.xs.stride[0] + row0)
                    with cute.arch.elect_one():
                        self.bulk_copy(sS.iterator + slot * p.tile_t, source, 4 * p.tile_t, scale_full + stage)
                    to, at = (None, slot), (None, block)
                    self.copy(atom, parts[0][1][at], parts[0][0][to], full + stage, peers, mask)
                    if cutlass.const_expr(times > 1):
                        if not whole:
                            for i in cutlass.range_constexpr(1, times):
                                self.copy(atom, parts[i][1][at], parts[i][0][to], full + stage, peers, mask)
                stage, phase = self.advance(stage, phase)
            tile = tile + p.ctas // p.cluster

    @cute.jit
    def gather_rows(self, atom, tma_x, indices, operands: Operands, sX, sS, full, empty, scale_full, alone):
        """Token rows by index, zeros for filling rows: by TMA, four rows an instruction, or by cp.async.

        The token scales always come by cp.async: they lie token by token, four bytes each.
        """
        p = self.plan
        self.wait(alone)
        thread = cute.arch.thread_idx()[0] - 32
        cum = cute.make_rmem_tensor((self.table.chunks,), Int32)
        total, tile, rank = self.start(operands.counts, cum)
        across, leads = p.place(rank)[1], self.leader(rank)
        half = rank % 2 if cutlass.const_expr(p.token_halves == 2) else Int32(0)
        copies = p.tile_t * 8 // p.gather_threads
        token = cute.make_rmem_tensor((copies,), Int32)
        scale_copies = (p.tile_t + p.gather_threads - 1) // p.gather_threads
        scale_token = cute.make_rmem_tensor((scale_copies,), Int32)
        stage, phase = Int32(0), Int32(1)
        while tile < total:
            expert, token_tile, _group, part = self.table.find(cum, tile)
            row0 = operands.m_indptr[expert] + (token_tile * p.cluster_t + across) * p.tile_t
            read = self.multiplied(operands.counts, expert, token_tile * p.cluster_t + across)
            first, boxes = row0 + half * read, (read + (p.gather_rows - 1)) // p.gather_rows
            for i in cutlass.range_constexpr(scale_copies):
                scale_token[i] = Int32(-1)
                if thread + i * p.gather_threads < p.tile_t:
                    scale_token[i] = operands.row_token[row0 + thread + i * p.gather_threads]
            if cutlass.const_expr(not p.gather4):
                for i in cutlass.range_constexpr(copies):
                    token[i] = operands.row_token[row0 + thread // 8 + i * (p.gather_threads // 8)]
            for k in cutlass.range(p.k_blocks // p.k_per_stage, unroll=1):
                cute.arch.mbarrier_wait(empty + stage, phase)
                if cutlass.const_expr(p.gather4):
                    self.expect(full + stage, boxes * (p.token_bytes // (p.token_rows // p.gather_rows)), leads)
                for u in cutlass.range(p.k_per_stage, unroll=1):
                    block = part * p.k_blocks + k * p.k_per_stage + u
                    slot = stage * p.k_per_stage + u
                    if cutlass.const_expr(p.gather4):
                        self.gather_box(atom, tma_x, indices, sX, first, boxes, block, slot, full + stage)
                    else:
                        self.copy_rows(operands.x, sX, token, thread, block, slot)
                    self.copy_scales(operands.xs, sS, scale_token, thread, block, slot)
                if cutlass.const_expr(not p.gather4):
                    cute.arch.cp_async_mbarrier_arrive_noinc(full + stage)
                cute.arch.cp_async_mbarrier_arrive_noinc(scale_full + stage)
                stage, phase = self.advance(stage, phase)
            tile = tile + p.ctas // p.cluster

    @cute.jit
    def gather_box(self, atom, tma_x, indices, sX, row0: Int32, boxes: Int32, block: Int32, slot: Int32, barrier):
        """The rows of one K block by TMA. Few at a time: all indices at once would not fit into the registers."""
        p = self.plan
        rows = p.gather_rows
        for i in cutlass.range(boxes, unroll=1):
            at = (row0 + i * rows, 0)
            gX = cute.local_tile(cute.domain_offset(at, tma_x), (rows, BLOCK), (0, None))
            gI = cute.local_tile(cute.domain_offset(at, indices), (rows, BLOCK), (0, None))
            box = cute.local_tile(sX, (rows, BLOCK, p.stages * p.k_per_stage), (i, 0, 0))
            views = [cute.group_modes(gX, 0, 2), cute.group_modes(gI, 0, 2)]
            layout = cute.make_layout(1)
            tXs, tXg, tIg = cpasync.tma_partition(atom, 0, layout, cute.group_modes(box, 0, 2), views)
            source = [tXg[(None, block)], tIg[(None, block)]]
            cute.copy(atom, source, tXs[(None, slot)], tma_bar_ptr=barrier)

    @cute.jit
    def copy_rows(self, x, sX, token, thread: Int32, block: Int32, slot: Int32):
        """This thread's 16-byte chunks of one K block, eight threads per row, into the swizzled slot."""
        p = self.plan
        chunk, row, step = thread % 8, thread // 8, p.gather_threads // 8
        for i in cutlass.range_constexpr(cute.size(token)):
            r = row + i * step
            target = sX.iterator.toint() + slot * (p.tile_t * BLOCK) + r * BLOCK + ((chunk ^ (r & 7)) << 4)
            source = x.iterator.toint() + Int64(cutlass.max(token[i], 0)) * p.k + block * BLOCK + 16 * chunk
            self.copy_async(target, source, 16, token[i] >= 0)

    @cute.jit
    def copy_scales(self, xs, sS, token, thread: Int32, block: Int32, slot: Int32):
        """This thread's token scales of one K block."""
        p = self.plan
        for i in cutlass.range_constexpr(cute.size(token)):
            if thread + i * p.gather_threads < p.tile_t:
                target = (sS.iterator + (slot * p.tile_t + thread + i * p.gather_threads)).toint()
                source = xs.iterator.toint() + 4 * (Int64(block) * xs.stride[0] + cutlass.max(token[i], 0))
                self.copy_async(target, source, 4, token[i] >= 0)
