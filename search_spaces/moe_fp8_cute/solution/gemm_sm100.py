"""The grouped FP8 GEMM of Blackwell: persistent, warp specialised, accumulators in tensor memory."""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
import cutlass.utils.blackwell_helpers as sm100
import cutlass.utils.hopper_helpers as sm90
from cutlass import Boolean, Float32, Int32, Int64
from cutlass.cute.nvgpu import OperandMajorMode, cpasync, tcgen05
from cutlass.memory import SmemAllocator
from cutlass.tensor_utils import LayoutEnum

from .budget import BLOCK
from .budget_sm100 import BlackwellPlan
from .epilogue import make_epilogue
from .epilogue_handed import HandedRows
from .operands import Operands
from .producer_sm100 import ProducerSm100
from .scales import Scales, unpacked
from .sched import TileTable

F8 = cutlass.Float8E4M3FN
MMA_WARP = 3


class GroupedGemmSm100:
    """``out[row] = epilogue(x[row] @ w[expert(row)].T)`` for the rows of all local experts.

    The weights ``w`` [E, N, K] and the token rows are K-major FP8 E4M3; the other tensors are in operands.py.

    Roles: warp 0 streams weights by TMA; warp 1 (and 2) bring token rows by TMA, by TMA gather of four rows, or by
    cp.async; warp 3 allocates tensor memory and issues the MMAs; four or eight promotion warps. Where the output must
    be cleared, warp 2 does it; with ``handover`` it stores finished rows. Rings, each with its own phase:
        full/empty: stages of ``k_tile``. The MMA warp waits for ``full``; its commit and the promotion warps (done
            with the token scales) make a stage ``empty``, in every CTA that loads for it.
        scale_full: token scales of a stage, for the promotion warps.
        ready/drained: accumulators of one K block of 128 in tensor memory. The commit of its MMAs makes one ``ready``,
            the promotion warps drain it into float32 sums in registers, scaled.
    In a pair of CTAs the even one issues all MMAs; ``ready`` arrives in both, ``drained`` in the even one.

    A promotion warp loads 16 lanes of 256 bits: the fragment is that of a wgmma, so scales.py and epilogue.py serve
    both architectures. Which 16 rows it has is the plan's ``slab``.

    Source: roles and promotion follow DeepGEMM (sm100_fp8_gemm_1d2d.cuh) and NVIDIA's blockwise example
    (contiguous_grouped_gemm.py); swapped operands, pairs and the shared fragment are ours.
    """

    def __init__(self, plan: BlackwellPlan, name: str):
        self.plan = plan
        self.name = name
        self.table = TileTable(plan)
        self.scales = Scales(plan)
        self.producer = ProducerSm100(plan, self.table)
        self.epilogue = HandedRows(plan) if plan.handover else make_epilogue(plan)
        self.group = tcgen05.CtaGroup.TWO if plan.pair else tcgen05.CtaGroup.ONE

    def _tiled_mmas(self, shape: tuple[int, int]) -> tuple[cute.TiledMma, cute.TiledMma]:
        """MMAs of M x N that overwrite their accumulator, and that add to it."""
        major = OperandMajorMode.K
        mmas = [sm100.make_trivial_tiled_mma(F8, F8, major, major, Float32, self.group, shape) for _ in range(2)]
        for accumulate, mma in enumerate(mmas):
            mma.set(tcgen05.Field.ACCUMULATE, bool(accumulate))
        return mmas[0], mmas[1]

    def _weight_view(self, w: cute.Tensor) -> tuple[cute.Tensor, tuple]:
        """The weights as the TMA sees them, and a box in it."""
        p = self.plan
        rows = p.tile_w // p.weight_pieces
        if p.paired and p.swap:
            g, half = p.interleave, p.n // 2
            shape = ((g, 2, half // g), p.k, p.experts)
            layout = cute.make_layout(shape, stride=((p.k, half * p.k, g * p.k), 1, p.n * p.k))
            return cute.make_tensor(w.iterator, layout), ((g, 2, rows // (2 * g)), BLOCK)
        layout = cute.make_layout((p.n, p.k, p.experts), stride=(p.k, 1, p.n * p.k))
        return cute.make_tensor(w.iterator, layout), (rows, BLOCK)

    def _load(self, peers: int):
        """The TMA operation for a box that ``peers`` CTAs share."""
        if peers > 1:
            return cpasync.CopyBulkTensorTileG2SMulticastOp(self.group)
        return cpasync.CopyBulkTensorTileG2SOp(self.group)

    def _box(self, rows: int, slots: int):
        """Shared memory layout of ``slots`` K blocks of ``rows`` rows, 128-byte swizzle."""
        return sm90.make_smem_layout_a(LayoutEnum.ROW_MAJOR, (rows, rows, BLOCK), F8, slots)

    @cute.jit
    def __call__(self, w, operands: Operands, stream):
        """Launch one kernel."""
        p = self.plan
        slots = p.stages * p.k_per_stage
        view, tiler = self._weight_view(w)
        one = (None, None, 0)
        box = cute.slice_(self._box(p.tile_w // p.weight_pieces, 1), one)
        atom_w, tma_w = cpasync.make_tiled_tma_atom(self._load(len(p.weight_peers(0))), view, box, tiler)
        atom_x, tma_x, indices = None, None, None
        if cutlass.const_expr(p.gather4):
            rows = cute.size(operands.row_token)
            indices = cute.make_tensor(operands.row_token.iterator, cute.make_layout((rows, p.k), stride=(1, 0)))
            op = cpasync.CopyBulkTensor2DGather4G2SOp(self.group)
            box = cute.slice_(self._box(p.gather_rows, 1), one)
            info = cpasync.make_tiled_tma_atom(op, operands.x, box, (p.gather_rows, BLOCK), gmem_coord_tensor=indices)
            atom_x, tma_x = info[0], info[1]
        elif cutlass.const_expr(not p.gather):
            rows = p.tile_t // p.token_pieces
            box = cute.slice_(self._box(rows, 1), one)
            info = cpasync.make_tiled_tma_atom(self._load(len(p.token_peers(0))), operands.x, box, (rows, BLOCK))
            atom_x, tma_x = info[0], info[1]
        self.kernel.set_name_prefix(self.name, remove_cutlass_symbol=True, keep_mangled_name=False)
        layouts = (self._box(p.weight_rows, slots), self._box(p.token_rows, slots))
        self.kernel(atom_w, tma_w, atom_x, tma_x, indices, operands, *layouts, tiler).launch(
            grid=(p.ctas, 1, 1),
            block=(p.threads, 1, 1),
            cluster=(p.cluster, 1, 1) if p.cluster > 1 else None,
            fallback_cluster=(p.least, 1, 1) if p.least < p.cluster else None,
            min_blocks_per_mp=p.ctas_per_sm,
            preferred_smem_carveout=100,
            stream=stream,
            use_pdl=p.pdl,
        )

    @cute.kernel
    def kernel(
        self, atom_w, tma_w, atom_x, tma_x, indices, operands: Operands, w_layout, x_layout, tiler: cutlass.Constexpr
    ):
        """One persistent CTA."""
        p = self.plan
        alone = self.table.enter(operands.counts)
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        smem = SmemAllocator()
        sW = smem.allocate_tensor(F8, w_layout.outer, byte_alignment=1024, swizzle=w_layout.inner)
        sX = smem.allocate_tensor(F8, x_layout.outer, byte_alignment=1024, swizzle=x_layout.inner)
        scale_slots = p.stages * p.k_per_stage
        sS = smem.allocate_tensor(Float32, cute.make_layout((p.tile_t, scale_slots)), byte_alignment=128)
        sF = self.allocate_factors(smem)
        bars = smem.allocate_array(Int64, 3 * p.stages + 2 * p.acc_stages)
        full, empty, scale_full = bars, bars + p.stages, bars + 2 * p.stages
        ready, drained = bars + 3 * p.stages, bars + 3 * p.stages + p.acc_stages
        tmem_slot = smem.allocate_array(Int32, 4)
        shared = self.epilogue.allocate(smem)
        if warp == 0:
            empty_arrivals = self.producer.empty_arrivals()
            with cute.arch.elect_one():
                for s in cutlass.range_constexpr(p.stages):
                    cute.arch.mbarrier_init(full + s, p.full_arrivals)
                    cute.arch.mbarrier_init(empty + s, empty_arrivals)
                    cute.arch.mbarrier_init(scale_full + s, p.scale_arrivals)
                for a in cutlass.range_constexpr(p.acc_stages):
                    cute.arch.mbarrier_init(ready + a, 1)
                    cute.arch.mbarrier_init(drained + a, p.drained_arrivals)
                self.epilogue.init_barriers(shared)
        if warp == MMA_WARP:
            cute.arch.alloc_tmem(p.tmem_columns, tmem_slot, is_two_cta=p.pair)
            cute.arch.relinquish_tmem_alloc_permit(is_two_cta=p.pair)
        cute.arch.mbarrier_init_fence()
        self.fence("before")
        cute.arch.sync_threads()
        self.cluster_sync()
        self.fence("after")
        tmem = cute.arch.retrieve_tmem_ptr(Float32, 16, tmem_slot)

        split = p.registers[0] != p.registers[1]
        if warp < 4:
            if cutlass.const_expr(split):
                cute.arch.setmaxregister_decrease(p.registers[0])
            if warp == 0:
                self.producer.weights(atom_w, tma_w, sW, full, empty, operands.counts, tiler, alone)
            if warp >= 1 and warp < 1 + self.producer.row_warps:
                if cutlass.const_expr(p.gather):
                    self.producer.gather_rows(atom_x, tma_x, indices, operands, sX, sS, full, empty, scale_full, alone)
                else:
                    self.producer.rows(atom_x, tma_x, operands, sX, sS, full, empty, scale_full, alone)
            if cutlass.const_expr(p.scaled):
                if warp == 2:
                    self.factors(operands, sS, sF, full, empty, scale_full, alone)
            elif cutlass.const_expr(p.zeroes):
                if warp == 2:
                    self.producer.zero(operands.zeroed, operands.counts)
            if cutlass.const_expr(p.handover):
                if warp == 2:
                    self.take_rows(shared, operands, alone)
            if warp == MMA_WARP:
                self.multiply(sW, sX, sF, tmem, full, empty, ready, drained, operands.counts, alone)
                if cutlass.const_expr(p.pdl and p.chained):
                    cute.arch.griddepcontrol_wait()
        else:
            if cutlass.const_expr(split):
                cute.arch.setmaxregister_increase(p.registers[1])
            if cutlass.const_expr(p.scaled and p.zeroes):
                self.producer.zero(operands.zeroed, operands.counts, 4 * p.groups)
            self.promote(operands, tmem, sS, empty, scale_full, ready, drained, shared, alone)
        # All accumulators are drained, and nobody writes to or arrives at a CTA that has left.
        self.fence("before")
        cute.arch.sync_threads()
        self.cluster_sync()
        if warp == MMA_WARP:
            self.fence("after")
            cute.arch.dealloc_tmem(tmem, p.tmem_columns, is_two_cta=p.pair)

    def allocate_factors(self, smem):
        """Shared memory for the factors of scaled MMAs (gemm_scaled_sm100.py), None without."""
        return None

    def fence(self, where: str) -> None:
        """Order tensor memory accesses around a barrier."""
        cute.arch.inline_ptx(f"tcgen05.fence::{where}_thread_sync;")

    @cute.jit
    def cluster_sync(self):
        """Wait for all threads of the cluster."""
        if cutlass.const_expr(self.plan.cluster > 1):
            cute.arch.cluster_arrive()
            cute.arch.cluster_wait()

    @cute.jit
    def multiply(self, sW, sX, sF, tmem, full, empty, ready, drained, counts, alone):
        """The MMA warp: per K block of 128, one accumulator in tensor memory."""
        p = self.plan
        self.producer.wait(alone)
        mma = self._tiled_mmas(p.mma_shape)
        slim = self._tiled_mmas((p.mma_shape[0], p.narrow)) if cutlass.const_expr(p.narrow > 0) else mma
        frag_a, frag_b = self._fragments(mma[0], sW, sX)
        cum = cute.make_rmem_tensor((self.table.chunks,), Int32)
        total, tile, rank = self.producer.start(counts, cum)
        empties = self.producer.empties(rank)
        both = Int32(3) << self.producer.here(rank) if cutlass.const_expr(p.pair) else Int32(1)
        stage, phase, a, a_phase = Int32(0), Int32(0), Int32(0), Int32(1)
        if self.producer.leader(rank):
            while tile < total:
                few = Boolean(False)
                if cutlass.const_expr(p.narrow > 0):
                    expert, token_tile, _group, _part = self.table.find(cum, tile)
                    few = self.producer.few(counts, expert, token_tile * p.cluster_t + p.place(rank)[1])
                for _ in cutlass.range(p.k_blocks // p.k_per_stage, unroll=1):
                    cute.arch.mbarrier_wait(full + stage, phase)
                    if cutlass.const_expr(p.gather and not p.gather4):
                        # cp.async writes by the generic proxy, the tensor core reads by the asynchronous one.
                        cute.arch.fence_proxy("async.shared", space="cta")
                    for u in cutlass.range_constexpr(p.k_per_stage):
                        cute.arch.mbarrier_wait(drained + a, a_phase)
                        self.fence("after")
                        target, slot = tmem + a * p.acc_columns, stage * p.k_per_stage + u
                        if cutlass.const_expr(p.narrow > 0):
                            if few:
                                self.issue(slim, p.narrow, frag_a, frag_b, target, slot)
                            else:
                                self.issue(mma, p.mma_shape[1], frag_a, frag_b, target, slot)
                        else:
                            self.issue(mma, p.mma_shape[1], frag_a, frag_b, target, slot)
                        self.commit(ready + a, both, p.pair)
                        a, a_phase = self.advance(a, a_phase, p.acc_stages)
                    self.commit(empty + stage, empties, p.cluster > 1)
                    stage, phase = self.advance(stage, phase, p.stages)
                tile = tile + p.ctas // p.cluster

    def _fragments(self, mma: cute.TiledMma, sW, sX) -> tuple:
        """Shared memory descriptors of A and B; the M side has ``mmas`` tiles."""
        p = self.plan
        m, n = p.mma_shape
        tiler, slots = (m * p.mmas, n, BLOCK), p.stages * p.k_per_stage
        a_layout = sm100.make_smem_layout_a(mma, tiler, F8, slots)
        b_layout = sm100.make_smem_layout_b(mma, tiler, F8, slots)
        a, b = (sW, sX) if p.swap else (sX, sW)
        return (
            mma.make_fragment_A(cute.make_tensor(a.iterator, a_layout.outer)),
            mma.make_fragment_B(cute.make_tensor(b.iterator, b_layout.outer)),
        )

    def issue(self, mma: tuple, n: int, frag_a, frag_b, target, slot: Int32) -> None:
        """The MMAs of one K block, N of them ``n``; the first K step overwrites the accumulator.

        Descriptors are those of the whole tile: an MMA with a smaller N reads its first rows.
        """
        p = self.plan
        layout = mma[0].make_fragment_C(mma[0].partition_shape_C((p.mma_shape[0], n))).layout
        for s in range(p.mmas):
            acc = cute.make_tensor(target + s * p.mma_shape[1], layout)[(None, 0, 0)]
            for k in range(BLOCK // 32):
                cute.gemm(mma[min(k, 1)], acc, frag_a[(None, s, k, slot)], frag_b[(None, 0, k, slot)], acc)

    @cute.jit
    def commit(self, barrier, mask: Int32, several: cutlass.Constexpr):
        """Arrive on a barrier, in several CTAs where asked, when all MMAs issued so far are done."""
        with cute.arch.elect_one():
            if cutlass.const_expr(several):
                tcgen05.commit(barrier, mask, self.group)
            else:
                tcgen05.commit(barrier, None, self.group)

    @cute.jit
    def advance(self, stage: Int32, phase: Int32, stages: cutlass.Constexpr) -> tuple[Int32, Int32]:
        """The next slot of a ring; the phase flips at its end."""
        stage = stage + 1
        if stage == stages:
            stage = Int32(0)
            phase = phase ^ 1
        return stage, phase

    @cute.jit
    def promote(self, operands: Operands, tmem, sS, empty, scale_full, ready, drained, shared, alone):
        """Promotion warps: tile by tile, sums in registers, epilogue."""
        p = self.plan
        self.producer.wait(alone)
        if cutlass.const_expr(p.pdl):
            cute.arch.griddepcontrol_launch_dependents()
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx()) - 4
        slab = p.slab(warp)
        # A warp's 16 lanes: those of its number modulo 4, the upper half for the second warpgroup.
        lanes_at = (32 * (warp % 4) + 16 * (warp // 4)) << 16
        acc = [cute.make_rmem_tensor((p.width // 2,), Float32) for _ in range(p.subs)]
        slim = acc
        if cutlass.const_expr(p.narrow > 0):
            slim = [cute.make_rmem_tensor((p.narrow // 2,), Float32) for _ in range(p.subs)]
        lanes = cute.make_rmem_tensor((self.scales.lane_values,), Float32)
        cum = cute.make_rmem_tensor((self.table.chunks,), Int32)
        total, tile, rank = self.producer.start(operands.counts, cum)
        across_w, across_t = p.place(rank)
        peer = self.producer.here(rank) // 2 * 2 if cutlass.const_expr(p.pair) else rank
        rings = (Int32(0), Int32(0), Int32(0), Int32(0))
        done = Int32(0)
        expert, token_tile, group, part = self.table.find(cum, tile)
        weight_tile = group * p.cluster_w + across_w
        self.scales.load_weights(operands.ws, lanes, expert, weight_tile, part * p.k_blocks, tile < total)
        while tile < total:
            row0 = operands.m_indptr[expert] + (token_tile * p.cluster_t + across_t) * p.tile_t
            few = Boolean(False)
            at = (tmem.toint() + lanes_at, sS, lanes, slab, empty, scale_full, ready, drained, peer)
            if cutlass.const_expr(p.narrow > 0):
                few = self.producer.few(operands.counts, expert, token_tile * p.cluster_t + across_t)
                if few:
                    rings = self.sum_tile(p.narrow, slim, *at, rings)
                else:
                    rings = self.sum_tile(p.width, acc, *at, rings)
            else:
                rings = self.sum_tile(p.width, acc, *at, rings)
            # The next tile's weight scales travel while this tile is stored.
            this_weight_tile, this_part = weight_tile, part
            tile = tile + p.ctas // p.cluster
            expert, token_tile, group, part = self.table.find(cum, tile)
            weight_tile = group * p.cluster_w + across_w
            self.scales.load_weights(operands.ws, lanes, expert, weight_tile, part * p.k_blocks, tile < total)
            to = (shared, operands, row0, this_weight_tile, this_part, done, Int32(p.tile_t))
            if cutlass.const_expr(p.narrow > 0):
                if few:
                    self.epilogue.store(slim, *to)
                else:
                    self.epilogue.store(acc, *to)
            else:
                self.epilogue.store(acc, *to)
            done = done + 1

    @cute.jit
    def take_rows(self, shared, operands: Operands, alone):
        """The warp that stores the rows which promotion warps hand over, tile by tile."""
        p = self.plan
        self.producer.wait(alone)
        cum = cute.make_rmem_tensor((self.table.chunks,), Int32)
        total, tile, rank = self.producer.start(operands.counts, cum)
        across_w, across_t = p.place(rank)
        done = Int32(0)
        while tile < total:
            expert, token_tile, group, _part = self.table.find(cum, tile)
            row0 = operands.m_indptr[expert] + (token_tile * p.cluster_t + across_t) * p.tile_t
            self.epilogue.take(shared, operands, row0, group * p.cluster_w + across_w, done)
            tile = tile + p.ctas // p.cluster
            done = done + 1

    @cute.jit
    def sum_tile(
        self,
        width: cutlass.Constexpr,
        acc,
        tmem: Int32,
        sS,
        lanes,
        slab,
        empty,
        scale_full,
        ready,
        drained,
        peer,
        rings,
    ):
        """All K blocks of one tile, ``width`` columns of each accumulator; returns where the rings stand after it."""
        p = self.plan
        stage, phase, a, a_phase = rings
        sums = [cute.make_rmem_tensor((cute.size(acc[0]) // 2,), Int64) for _ in range(p.subs)]
        for s in cutlass.range_constexpr(p.subs):
            sums[s].fill(0)
        for k in cutlass.range(p.k_blocks // p.k_per_stage, unroll=1):
            cute.arch.mbarrier_wait(scale_full + stage, phase)
            for u in cutlass.range(p.k_per_stage, unroll=1):
                slot, block = stage * p.k_per_stage + u, k * p.k_per_stage + u
                scales = self.scales_of(width, sS, lanes, slab, slot, block)
                if cutlass.const_expr(p.scales_first(width)):
                    # They are in registers: the stage need not wait for its accumulators.
                    self.release(empty + stage, u == p.k_per_stage - 1)
                cute.arch.mbarrier_wait(ready + a, a_phase)
                self.fence("after")
                self.drain(width, sums, tmem + a * p.acc_columns, sS, lanes, scales, slot, block, drained + a, peer)
                a, a_phase = self.advance(a, a_phase, p.acc_stages)
                if cutlass.const_expr(not p.scales_first(width)):
                    self.release(empty + stage, u == p.k_per_stage - 1)
            stage, phase = self.advance(stage, phase, p.stages)
        for s in cutlass.range_constexpr(p.subs):
            for i in cutlass.range_constexpr(cute.size(sums[s])):
                acc[s][2 * i], acc[s][2 * i + 1] = unpacked(sums[s][i])
        return stage, phase, a, a_phase

    # Arrivals are predicated, not branched to: where a block of code ends, the compiler keeps the sums in other
    # registers before it than behind it, and moves them in every K block.

    def release(self, empty, last) -> None:
        """One arrival per warp, when it has read the scales of the stage's ``last`` K block."""
        cute.arch.sync_warp()
        first = Boolean(last) & (cute.arch.lane_idx() == 0)
        cute.arch.inline_ptx("mbarrier.arrive.shared.b64 _, [{$r0}];", read_only_args=[empty.toint()], predicate=first)

    def hand_back(self, drained, peer: Int32) -> None:
        """Release an accumulator that this warp has completely in registers: one arrival, in a pair at the issuer."""
        self.fence("before")
        cute.arch.sync_warp()
        address, space = drained.toint(), "shared"
        if self.plan.pair:
            map_address = "mapa.shared::cluster.u32 {$w0}, {$r0}, {$r1};"
            address = cute.arch.inline_ptx(map_address, write_only_types=[Int32], read_only_args=[address, peer])
            space = "shared::cluster"
        cute.arch.inline_ptx(
            f"mbarrier.arrive.{space}.b64 _, [{{$r0}}];",
            read_only_args=[address],
            predicate=cute.arch.lane_idx() == 0,
        )

    def scales_of(self, width: int, sS, lanes, slab: Int32, slot: Int32, k: Int32):
        """What one K block is scaled with: token scales of the first columns, or factors of every accumulator."""
        p = self.plan
        token = cute.make_rmem_tensor((p.loaded(width) // 4 if p.swap else 2,), Float32)
        if p.swap:
            self.scales.load_tokens(sS, token, slot, 0)
            return token
        self.scales.load_tokens(sS, token, slot, 16 * slab + cute.arch.lane_idx() // 4)
        return [self.scales.factors(token, lanes, s, k) for s in range(p.subs)]

    def drain(
        self, width: int, sums, tmem: Int32, sS, lanes, scales, slot: Int32, k: Int32, drained, peer: Int32
    ) -> None:
        """Add ``width`` columns of one K block to the sums, some of them at a time.

        The next columns are under way while these are added: a wait is for all loads, so the next one starts right
        behind it. The MMAs get the accumulator back behind the last wait.
        """
        p = self.plan
        step = p.loaded(width)
        parts = [(first, s) for first in range(0, width, step) for s in range(p.subs)]
        coming = self.load(tmem + (parts[0][1] * p.width + parts[0][0]), step)
        for i, (first, s) in enumerate(parts):
            cute.arch.inline_ptx("tcgen05.wait::ld.sync.aligned;")
            tmp = coming
            if i + 1 < len(parts):
                following, t = parts[i + 1]
                coming = self.load(tmem + (t * p.width + following), step)
            else:
                self.hand_back(drained, peer)
            if p.swap and first > 0 and s == 0:
                self.scales.load_tokens(sS, scales, slot, 0, first)
            if p.swap:
                self.scales.promote(self.columns(sums[s], first, step), tmp, scales, lanes, s, k)
            else:
                self.scales.promote_rows(self.columns(sums[s], first, step), tmp, scales[s])

    def columns(self, sums: cute.Tensor, first: int, count: int) -> cute.Tensor:
        """A thread's sums of ``count`` columns from ``first`` on."""
        return cute.make_tensor(sums.iterator + first // 4, cute.make_layout((count // 4,)))

    def load(self, address: Int32, columns: int):
        """Start to load 16 lanes of ``columns`` accumulators into the fragment of a wgmma; a wait completes it."""
        count = columns // 2
        registers = ", ".join(f"{{$w{i}}}" for i in range(count))
        code = f"tcgen05.ld.sync.aligned.16x256b.x{columns // 8}.b32 {{{registers}}}, [{{$r0}}];"
        values = cute.arch.inline_ptx(code, write_only_types=[Int32] * count, read_only_args=[address])
        tmp = cute.make_rmem_tensor((count,), Int32)
        for i in range(count):
            tmp[i] = values[i]
        return tmp
