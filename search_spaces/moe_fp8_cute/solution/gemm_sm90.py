"""The grouped FP8 GEMM of Hopper: persistent, warp specialised, float32 promotion after every 128 of K."""

from __future__ import annotations

from typing import Any, NamedTuple

import cutlass
import cutlass.cute as cute
import cutlass.utils.hopper_helpers as sm90
from cutlass import Float32, Int32, Int64
from cutlass.cute.nvgpu import OperandMajorMode, cpasync, warpgroup
from cutlass.memory import SmemAllocator
from cutlass.tensor_utils import LayoutEnum

from .budget import BLOCK, GemmPlan
from .epilogue import make_epilogue
from .operands import Operands
from .producer import Producer
from .scales import Scales
from .sched import TileTable

F8 = cutlass.Float8E4M3FN


class MainLoop(NamedTuple):
    """What the main loop of a consumer thread works with.

    Attributes:
        mma: The MMA that overwrites its accumulator and the one that adds to it.
        frags_w, frags_x: Shared memory descriptors, one per accumulator along the weights and along the tokens.
        acc: Sums in float32, one fragment per accumulator.
        tmp: Two sets of as many fragments for one K block.
        token: Two sets of token scales.
        lanes: Weight scales of the tile, spread over the warp.
        scales: Token scales in shared memory, [tile_t, stages].
        full, empty: Barriers of the stages.
    """

    mma: Any
    frags_w: Any
    frags_x: Any
    acc: Any
    tmp: Any
    token: Any
    lanes: Any
    scales: Any
    full: Any
    empty: Any


class GroupedGemm:
    """``out[row] = epilogue(x[row] @ w[expert(row)].T)`` for the rows of all local experts.

    The weights ``w`` [E, N, K] and the token rows are K-major FP8 E4M3; the other tensors are in operands.py.

    Roles: warp 0 streams weight tiles by TMA; warp 1 (and 2) bring token rows, by TMA or, gathering, by cp.async;
    with ``copies`` warp 2 makes the copy that TMA reads; with ``feed`` = ``tiles`` warp 3 counts and claims them
    (feed.py); one or two consumer warpgroups run wgmma. A stage is 128 of K: weights, token rows, token scales.
    ``full[s]`` counts one arrival of the weight warp, and one of the row warp or one per gathering thread;
    ``empty[s]`` counts one arrival per consumer thread. With ``early_weights`` the weight warp does not wait for the
    previous kernel: it fills the pipeline while that kernel drains.

    Swap-AB: weights are the M side (64 rows per warpgroup), tokens the N side; in ``gate_up`` eight up rows and eight
    gate rows alternate, so a thread holds up (h = 0) and gate (h = 1) of the same column. Otherwise tokens are the M
    side; up and gate are two accumulators, or the halves of one in a tile of 128 weight rows. A tile of 128 token rows
    per warpgroup is two accumulators along the tokens.

    Source: roles and promotion follow DeepGEMM (sm90_fp8_gemm_1d2d.cuh); swapped operands and the interleaved TMA
    view are ours.
    """

    def __init__(self, plan: GemmPlan, name: str):
        self.plan = plan
        self.name = name
        self.table = TileTable(plan)
        self.scales = Scales(plan)
        self.producer = Producer(plan, self.table)
        self.epilogue = make_epilogue(plan)

    def _weight_view(self, w: cute.Tensor) -> tuple[cute.Layout, tuple]:
        """Layout of the weights as the TMA sees them, and the tile in it."""
        p = self.plan
        if p.paired:
            g, half = p.interleave, p.n // 2
            shape = ((g, 2, half // g), p.k, p.experts)
            layout = cute.make_layout(shape, stride=((p.k, half * p.k, g * p.k), 1, p.n * p.k))
            return layout, ((g, 2, p.columns // g), BLOCK)
        return cute.make_layout((p.n, p.k, p.experts), stride=(p.k, 1, p.n * p.k)), (p.tile_w, BLOCK)

    def _tiled_mma(self, accumulate: bool, width: int) -> cute.TiledMma:
        p = self.plan
        major = OperandMajorMode.K
        mma = sm90.make_trivial_tiled_mma(F8, F8, major, major, Float32, (p.groups, 1, 1), (64, width))
        mma.set(warpgroup.Field.ACCUMULATE, accumulate)
        return mma

    @cute.jit
    def __call__(self, w, operands: Operands, stream):
        """Launch one kernel."""
        p = self.plan
        w_layout = sm90.make_smem_layout_a(LayoutEnum.ROW_MAJOR, (p.tile_w, p.tile_w, BLOCK), F8, p.stages)
        x_layout = sm90.make_smem_layout_a(LayoutEnum.ROW_MAJOR, (p.tile_t, p.tile_t, BLOCK), F8, p.stages)
        view, tiler = self._weight_view(w)
        load = cpasync.CopyBulkTensorTileG2SOp()
        multicast = cpasync.CopyBulkTensorTileG2SMulticastOp()
        info_w = cpasync.make_tiled_tma_atom(
            multicast if p.multicast == "weights" else load,
            cute.make_tensor(w.iterator, view),
            cute.slice_(w_layout, (None, None, 0)),
            tiler,
            p.multicast_ctas if p.multicast == "weights" else 1,
        )
        atom_w, tma_w = info_w[0], info_w[1]
        atom_x, tma_x = None, None
        if cutlass.const_expr(not p.gather):
            shares = p.multicast_ctas if p.multicast == "tokens" else 1
            box = sm90.make_smem_layout_a(LayoutEnum.ROW_MAJOR, (p.box_t, p.box_t, BLOCK), F8, 1)
            box = cute.slice_(box, (None, None, 0))
            info_x = cpasync.make_tiled_tma_atom(
                multicast if shares > 1 else load, operands.x, box, (p.box_t, BLOCK), shares
            )
            atom_x, tma_x = info_x[0], info_x[1]
        clusters = p.ctas // p.cluster
        self.kernel.set_name_prefix(self.name, remove_cutlass_symbol=True, keep_mangled_name=False)
        self.kernel(
            atom_w,
            tma_w,
            atom_x,
            tma_x,
            operands,
            w_layout,
            x_layout,
            tiler,
        ).launch(
            grid=(clusters * p.cluster, 1, 1),
            block=(p.threads, 1, 1),
            cluster=(p.cluster, 1, 1) if p.cluster > 1 else None,
            min_blocks_per_mp=p.ctas_per_sm,
            preferred_smem_carveout=100,
            stream=stream,
            use_pdl=p.pdl,
        )

    @cute.kernel
    def kernel(
        self,
        atom_w,
        tma_w,
        atom_x,
        tma_x,
        operands: Operands,
        w_layout,
        x_layout,
        tiler: cutlass.Constexpr,
    ):
        """One persistent CTA."""
        p = self.plan
        alone = self.table.enter(operands.counts)
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        smem = SmemAllocator()
        sW = smem.allocate_tensor(F8, w_layout.outer, byte_alignment=1024, swizzle=w_layout.inner)
        sX = smem.allocate_tensor(F8, x_layout.outer, byte_alignment=1024, swizzle=x_layout.inner)
        sS = smem.allocate_tensor(Float32, cute.make_layout((p.tile_t, p.stages)), byte_alignment=128)
        bars = smem.allocate_array(Int64, 2 * p.stages)
        full, empty = bars, bars + p.stages
        shared = self.epilogue.allocate(smem)
        queue = self.producer.feed.allocate(smem) if p.by_tiles else None
        if warp == 0:
            with cute.arch.elect_one():
                for s in cutlass.range_constexpr(p.stages):
                    cute.arch.mbarrier_init(full + s, 1 + (p.gather_threads if p.gather else 1))
                    cute.arch.mbarrier_init(empty + s, 128 * p.groups * p.multicast_ctas)
                self.epilogue.init_barriers(shared)
                if cutlass.const_expr(p.by_tiles):
                    self.producer.feed.init_barriers(queue)
        cute.arch.mbarrier_init_fence()
        if cutlass.const_expr(p.cluster > 1):
            cute.arch.cluster_arrive_relaxed()
            cute.arch.cluster_wait()
        else:
            cute.arch.sync_threads()

        split = p.registers[0] != p.registers[1]
        if warp < 4:
            if cutlass.const_expr(split):
                cute.arch.setmaxregister_decrease(p.registers[0])
            if warp == 0:
                self.producer.weights(atom_w, tma_w, operands, sW, full, empty, queue, tiler, alone)
            if warp >= 1 and warp < 1 + self.producer.row_warps:
                if cutlass.const_expr(p.gather):
                    self.producer.gather(operands, sX, sS, full, empty, alone)
                else:
                    self.producer.rows(atom_x, tma_x, operands, sX, sS, full, empty, queue, alone)
            if warp == 2:
                if cutlass.const_expr(p.copies):
                    self.producer.wait(alone)
                    self.producer.row_copy.rest(operands)
            if warp == 3:
                if cutlass.const_expr(operands.zeroed is not None and p.clear == "ahead"):
                    self.producer.zero(operands.zeroed, operands.counts)
                if cutlass.const_expr(p.by_tiles):
                    self.producer.serve(operands, queue, alone)
                if cutlass.const_expr(p.pdl and (p.chained or p.fed)):
                    cute.arch.griddepcontrol_wait()
        else:
            if cutlass.const_expr(split):
                cute.arch.setmaxregister_increase(p.registers[1])
            self.consume(operands, sW, sX, sS, full, empty, shared, queue, alone)
        if cutlass.const_expr(p.cluster > 1):
            # Shared memory of a CTA must outlive the last arrival or store of its neighbours.
            cute.arch.cluster_arrive()
            cute.arch.cluster_wait()

    @cute.jit
    def consume(self, operands: Operands, sW, sX, sS, full, empty, shared, queue, alone):
        """Consumer warpgroups: tile by tile, main loop and epilogue."""
        p = self.plan
        self.producer.wait(alone)
        if cutlass.const_expr(p.pdl):
            cute.arch.griddepcontrol_launch_dependents()
        if cutlass.const_expr(p.fed):
            self.producer.feed.wait_cleared(operands)
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx()) - 4
        lanes = cute.make_rmem_tensor((self.scales.lane_values,), Float32)
        main = self._main_loop(p.tile_t if p.swap else p.sub_w, warp // 4, lanes, sW, sX, sS, full, empty)
        slim = main
        if cutlass.const_expr(p.narrow > 0):
            slim = self._main_loop(p.narrow, warp // 4, lanes, sW, sX, sS, full, empty)
        cum = cute.make_rmem_tensor((self.table.chunks,), Int32)
        total = self.table.load(operands.counts, cum) * self.table.per_token_tile
        height = self.table.height(operands.counts)
        rank = cute.arch.block_idx_in_cluster() if cutlass.const_expr(p.cluster > 1) else Int32(0)
        tile = cute.arch.block_idx()[0] // p.cluster
        if cutlass.const_expr(p.copies):
            if total > 0:
                last = cutlass.min(total, p.ctas // p.cluster) - 1
                self.producer.row_copy.first(operands, self.table.find(cum, last)[0])
        stage, phase, done, passed = Int32(0), Int32(0), Int32(0), Int32(0)
        expert, token_tile, weight_tile, part, _ = self.table.place(cum, tile, rank)
        self.scales.load_weights(operands.ws, lanes, expert, weight_tile, part * p.k_blocks, tile < total)
        while tile < total:
            row0 = operands.m_indptr[expert] + token_tile * height
            # Rows of the expert from this warpgroup's first one on. 64 rows that are all filling are not multiplied,
            # which leaves the tensor cores to the other warpgroup.
            left = Int32(p.tile_t)
            if cutlass.const_expr(not p.swap and p.tile_t > 64):
                left = operands.counts[expert] - token_tile * p.tile_t - 64 * (warp // 4)
            if cutlass.const_expr(p.narrow > 0):
                left = cutlass.min(operands.counts[expert] - token_tile * height, height)
            both = left > 64 * (1 - warp // 4)
            full_tile = left > max(p.cta_m * (p.token_subs - 1), p.narrow)
            if cutlass.const_expr(p.narrow > 0):
                if not full_tile:
                    stage, phase = self.loop(p.subs, slim, stage, phase, both)
            if full_tile:
                stage, phase = self.loop(p.subs, main, stage, phase, both)
            if cutlass.const_expr(p.token_subs > 1):
                if not full_tile and left > 0:
                    stage, phase = self.loop(p.weight_subs, main, stage, phase, both)
            if left <= 0:
                stage, phase = self.skip(full, empty, stage, phase)
            # The next tile's weight scales travel while this tile is stored.
            this_weight_tile, this_part = weight_tile, part
            tile = self.producer.following(tile, queue, passed)
            expert, token_tile, weight_tile, part, _ = self.table.place(cum, tile, rank)
            self.scales.load_weights(operands.ws, lanes, expert, weight_tile, part * p.k_blocks, tile < total)
            if cutlass.const_expr(p.narrow > 0):
                if not full_tile:
                    self.epilogue.store(slim.acc, shared, operands, row0, this_weight_tile, this_part, done, left)
                else:
                    self.epilogue.store(main.acc, shared, operands, row0, this_weight_tile, this_part, done, left)
                done = done + 1
            elif left > 0:
                self.epilogue.store(main.acc, shared, operands, row0, this_weight_tile, this_part, done, left)
                done = done + 1
            if cutlass.const_expr(p.by_tiles):
                if cutlass.const_expr(p.paired):
                    self.producer.feed.stored(queue, passed)
                passed = passed + 1

    def _main_loop(self, width: int, group: Int32, lanes, sW, sX, sS, full, empty) -> MainLoop:
        """The fragments and barriers of a main loop whose MMAs have an N of ``width``."""
        p = self.plan
        mma = (self._tiled_mma(False, width), self._tiled_mma(True, width))
        frags_w, frags_x = self._fragments(mma[0], sW, sX, group, width)
        shape = mma[0].partition_shape_C((p.cta_m, width))
        acc = [cute.make_rmem_tensor(shape, Float32) for _ in range(p.subs)]
        if p.overlap:
            tmp = [[cute.make_rmem_tensor(shape, Float32) for _ in range(p.subs)] for _ in range(2)]
        else:
            tmp = [[cute.make_rmem_tensor(shape, Float32)] * p.subs] * 2
        values = width // 4 if p.swap else self.scales.token_values
        token = [cute.make_rmem_tensor((values,), Float32) for _ in range(2)]
        return MainLoop(mma, frags_w, frags_x, acc, tmp, token, lanes, sS, full, empty)

    def _fragments(self, mma: cute.TiledMma, sW, sX, group: Int32, width: int) -> tuple[list, list]:
        """Shared memory descriptors of the weights and of the token rows, one per accumulator along each."""
        p = self.plan
        thread = mma.get_slice(128 * group)
        weights = [cute.local_tile(sW, (p.sub_w, BLOCK, p.stages), (s, 0, 0)) for s in range(p.weight_subs)]
        if p.swap:
            columns = sX if width == p.tile_t else cute.local_tile(sX, (width, BLOCK, p.stages), (0, 0, 0))
            rows = mma.make_fragment_B(thread.partition_B(columns))
            return [mma.make_fragment_A(thread.partition_A(t)) for t in weights], [rows]
        rows = [cute.local_tile(sX, (p.cta_m, BLOCK, p.stages), (t, 0, 0)) for t in range(p.token_subs)]
        return (
            [mma.make_fragment_B(thread.partition_B(t)) for t in weights],
            [mma.make_fragment_A(thread.partition_A(t)) for t in rows],
        )

    def _mma(self, main: MainLoop, tmp, sub: int, stage: Int32, steps: range = range(4)) -> None:
        """Some of the four wgmmas of accumulator ``sub`` and one K block; the first of the four overwrites."""
        frag_w, frag_x = main.frags_w[sub % self.plan.weight_subs], main.frags_x[sub // self.plan.weight_subs]
        for k in steps:
            at = (None, None, k, stage)
            a, b = (frag_w[at], frag_x[at]) if self.plan.swap else (frag_x[at], frag_w[at])
            cute.gemm(main.mma[0] if k == 0 else main.mma[1], tmp, a, b, tmp)

    def _token_row(self) -> Int32:
        """The thread's first row in a 64-row MMA per warpgroup (tokens as M)."""
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx()) - 4
        return 16 * warp + cute.arch.lane_idx() // 4

    @cute.jit
    def advance(self, stage: Int32, phase: Int32) -> tuple[Int32, Int32]:
        """The next stage of the ring; the phase flips at its end."""
        stage = stage + 1
        if stage == self.plan.stages:
            stage = Int32(0)
            phase = phase ^ 1
        return stage, phase

    @cute.jit
    def release(self, empty, stage: Int32):
        """This thread has read the stage: it may be overwritten, in all CTAs whose copies come here too.

        Every thread arrives for itself. After a warp barrier one lane could arrive for its whole warp, which is up to
        0.9 % faster (one token), but racecheck cannot follow such an arrival and would hide real races.
        """
        if cutlass.const_expr(self.plan.multicast_ctas > 1):
            for peer in cutlass.range_constexpr(self.plan.multicast_ctas):
                cute.arch.mbarrier_arrive(empty + stage, peer)
        else:
            cute.arch.mbarrier_arrive(empty + stage)

    @cute.jit
    def issue(self, main: MainLoop, which: cutlass.Constexpr, stage: Int32, phase: Int32):
        """Wait for a stage and start all its wgmmas as one group, into set ``which`` of the temporaries."""
        cute.arch.mbarrier_wait(main.full + stage, phase)
        self.scales.load_tokens(main.scales, main.token[which], stage, self._token_row())
        warpgroup.fence()
        for s in cutlass.range_constexpr(self.plan.subs):
            self._mma(main, main.tmp[which][s], s, stage)
        warpgroup.commit_group()

    @cute.jit
    def settle(self, main: MainLoop, which: cutlass.Constexpr, stage: Int32, k: Int32):
        """Promote a finished K block and give its stage back."""
        for s in cutlass.range_constexpr(self.plan.subs):
            self.scales.promote(main.acc[s], main.tmp[which][s], main.token[which], main.lanes, s, k)
        self.release(main.empty, stage)

    @cute.jit
    def skip(self, full, empty, stage: Int32, phase: Int32):
        """Release the stages of a tile without reading them."""
        for _ in cutlass.range(self.plan.k_blocks, unroll=1):
            cute.arch.mbarrier_wait(full + stage, phase)
            self.release(empty, stage)
            stage, phase = self.advance(stage, phase)
        return stage, phase

    @cute.jit
    def loop(self, subs: cutlass.Constexpr, main: MainLoop, stage: Int32, phase: Int32, both):
        """Main loop of one tile on its first ``subs`` accumulators; returns where the ring stands after it."""
        for s in cutlass.range_constexpr(subs):
            main.acc[s].fill(0.0)
        if cutlass.const_expr(self.plan.overlap):
            stage, phase = self.loop_overlap(main, stage, phase)
        elif cutlass.const_expr(self.plan.alternate):
            stage, phase = self.loop_alternate(main, stage, phase, both)
        else:
            stage, phase = self.loop_serial(subs, main, stage, phase)
        return stage, phase

    @cute.jit
    def loop_overlap(self, main: MainLoop, stage: Int32, phase: Int32):
        """Main loop with two sets of temporaries: one K block is promoted while the next one multiplies.

        No MMA is in flight where the loop turns: the compiler would copy its registers there and serialise all of them.
        """
        p = self.plan
        unroll = 4 if p.k_blocks % 4 == 0 else 2
        for i in cutlass.range(p.k_blocks // unroll, unroll=1):
            last = stage
            for u in cutlass.range_constexpr(unroll):
                self.issue(main, u % 2, stage, phase)
                if cutlass.const_expr(u > 0):
                    warpgroup.wait_group(1)
                    self.settle(main, 1 - u % 2, last, unroll * i + u - 1)
                last = stage
                stage, phase = self.advance(stage, phase)
            warpgroup.wait_group(0)
            self.settle(main, 1, last, unroll * i + unroll - 1)
        return stage, phase

    @cute.jit
    def loop_serial(self, subs: cutlass.Constexpr, main: MainLoop, stage: Int32, phase: Int32):
        """Main loop with one temporary for all accumulators: the other warpgroup fills the tensor cores meanwhile."""
        for k in cutlass.range(self.plan.k_blocks, unroll=2):
            cute.arch.mbarrier_wait(main.full + stage, phase)
            self.scales.load_tokens(main.scales, main.token[0], stage, self._token_row())
            for s in cutlass.range_constexpr(subs):
                warpgroup.fence()
                self._mma(main, main.tmp[0][s], s, stage)
                warpgroup.commit_group()
                factors = self.scales.factors(main.token[0], main.lanes, s, k)
                warpgroup.wait_group(0)
                if cutlass.const_expr(s == subs - 1):
                    self.release(main.empty, stage)
                self.scales.promote_rows(main.acc[s], main.tmp[0][s], factors)
            stage, phase = self.advance(stage, phase)
        return stage, phase

    @cute.jit
    def loop_alternate(self, main: MainLoop, stage: Int32, phase: Int32, both):
        """Main loop in which the two warpgroups take turns on the tensor cores.

        Left alone they wait for the same stage, multiply at half speed side by side, and promote at the same time while
        the tensor cores idle. Here a warpgroup may start an accumulator when the other one is at the last of its four
        MMAs. Barriers 2 and 3 are the two warpgroups' permissions to multiply.
        """
        group = (cute.arch.make_warp_uniform(cute.arch.warp_idx()) - 4) // 4
        mine, other = 2 + group, 3 - group
        turns = Int32(both)
        self.pass_turn(turns * group, other)
        for k in cutlass.range(self.plan.k_blocks, unroll=1):
            cute.arch.mbarrier_wait(main.full + stage, phase)
            self.scales.load_tokens(main.scales, main.token[0], stage, self._token_row())
            for s in cutlass.range_constexpr(self.plan.subs):
                self.take_turn(turns, mine)
                warpgroup.fence()
                self._mma(main, main.tmp[0][s], s, stage, range(3))
                warpgroup.commit_group()
                self._mma(main, main.tmp[0][s], s, stage, range(3, 4))
                warpgroup.commit_group()
                factors = self.scales.factors(main.token[0], main.lanes, s, k)
                warpgroup.wait_group(1)
                last = cutlass.Boolean(False)
                if cutlass.const_expr(s == self.plan.subs - 1):
                    last = k == self.plan.k_blocks - 1
                self.pass_turn(turns * (1 - group * Int32(last)), other)
                warpgroup.wait_group(0)
                if cutlass.const_expr(s == self.plan.subs - 1):
                    self.release(main.empty, stage)
                self.scales.promote_rows(main.acc[s], main.tmp[0][s], factors)
            stage, phase = self.advance(stage, phase)
        return stage, phase

    def take_turn(self, wanted: Int32, barrier: Int32) -> None:
        """Wait for permission where ``wanted`` is not 0; predicated, since a branch would drain the MMAs in flight."""
        code = "{ .reg .pred p; setp.ne.s32 p, {$r0}, 0; @p bar.sync {$r1}, 256; }"
        cute.arch.inline_ptx(code, read_only_args=[wanted, barrier])

    def pass_turn(self, wanted: Int32, barrier: Int32) -> None:
        """Give the other warpgroup permission where ``wanted`` is not 0."""
        code = "{ .reg .pred p; setp.ne.s32 p, {$r0}, 0; @p bar.arrive {$r1}, 256; }"
        cute.arch.inline_ptx(code, read_only_args=[wanted, barrier])
