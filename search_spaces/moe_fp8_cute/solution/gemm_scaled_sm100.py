"""The grouped GEMM of Blackwell where scales are powers of two: the MMAs multiply with them, nothing is promoted."""

from __future__ import annotations

import itertools

import cutlass
import cutlass.cute as cute
import cutlass.utils.blackwell_helpers as sm100
from cutlass import Boolean, Float32, Int32, Int64
from cutlass.cute.nvgpu import OperandMajorMode, tcgen05

from .budget import BLOCK
from .gemm_sm100 import F8, GroupedGemmSm100
from .operands import Operands
from .scales import float_bits, float_of

E8M0 = cutlass.Float8E8M0FNU
SCALE_WARP = 2
NOT_A_POWER = 255
"""The scale that is NaN."""


class ScaledGemmSm100(GroupedGemmSm100):
    """:class:`GroupedGemmSm100` with ``tcgen05.mma.kind::mxf8f6f4``, which scales every 32 elements along K by 2^n.

    The sums of a tile stay in tensor memory over all of K and are read once, so the promotion warps have time for the
    epilogue: they hand the accumulator back as soon as they have it in registers. A scale that is no power of two (0,
    negative, infinite, NaN or with a mantissa) becomes NaN, and so does every sum that it has a part in: this form is
    for definitions that promise powers of two, and a broken promise shows in the output.

    Roles: warp 2 turns the scales of a stage into factors in shared memory (:meth:`factors`) and arrives on ``full``.
    The MMA warp copies them to tensor memory, then multiplies; each stage has columns of its own there. Where the
    output must be cleared, the promotion warps do it before their first tile.

    Factors: 128 rows of M or N take 512 bytes, lane by lane four words. Word ``c`` of lane ``l`` is for row ``32 * c +
    l``, byte ``u`` its exponent in K block ``u`` of the stage, whose MMAs have the scale id ``u``. The copy puts the
    words into four columns, in each quarter of the lanes.

    Source: PTX ISA, "Block Scaling" of tcgen05.mma, layout of the scale factor matrices for scale_vec::1X, and
    "Instruction descriptor" of kind::mxf8f6f4; the order of copy and MMA as in DeepGEMM (sm100_fp8_gemm_1d1d.cuh).
    """

    def _tiled_mma(self, shape: tuple[int, int]) -> cute.TiledMma:
        """The MMA of M x N."""
        major = OperandMajorMode.K
        return sm100.make_blockscaled_trivial_tiled_mma(F8, F8, major, major, E8M0, 32, self.group, shape)

    def allocate_factors(self, smem):
        """Shared memory for the factors of every stage."""
        p = self.plan
        return smem.allocate_array(Int32, p.stages * p.factor_bytes // 4, byte_alignment=128)

    @property
    def factors_at(self) -> int:
        """First column of the factors in tensor memory."""
        return self.plan.acc_stages * self.plan.acc_columns

    # The scale warp.

    @cute.jit
    def factors(self, operands: Operands, sS, sF, full, empty, scale_full, alone):
        """Factors of every stage, from token scales in shared memory and weight scales in lanes."""
        p = self.plan
        self.producer.wait(alone)
        lanes = cute.make_rmem_tensor((self.scales.lane_values,), Float32)
        cum = cute.make_rmem_tensor((self.table.chunks,), Int32)
        total, tile, rank = self.producer.start(operands.counts, cum)
        across_w = p.place(rank)[0]
        stage, phase = Int32(0), Int32(0)
        while tile < total:
            expert, _token_tile, group, part = self.table.find(cum, tile)
            weight_tile = group * p.cluster_w + across_w
            self.scales.load_weights(operands.ws, lanes, expert, weight_tile, part * p.k_blocks, Boolean(True))
            for k in cutlass.range(p.k_blocks // p.k_per_stage, unroll=1):
                cute.arch.mbarrier_wait(scale_full + stage, phase)
                self.put_factors(sS, sF, lanes, stage, k)
                cute.arch.fence_proxy("async.shared", space="cta")
                self.release(empty + stage, True)
                self.arrive(full + stage, rank)
                stage, phase = self.advance(stage, phase, p.stages)
            tile = tile + p.ctas // p.cluster

    def put_factors(self, sS, sF, lanes, stage: Int32, k: Int32) -> None:
        """The factors of stage ``k`` of a tile: 128 rows at a time, those of M first."""
        p = self.plan
        weights = [
            self.word([self.scales.weight(lanes, row, k * p.k_per_stage + u) for u in range(p.k_per_stage)])
            for row in range(p.scale_rows)
        ]
        weight_rows = [[self.weight_word(weights, first + 32 * c) for c in range(4)] for first in self.chunks(p.tile_w)]
        token_rows = [[self.token_word(sS, stage, first + 32 * c) for c in range(4)] for first in self.chunks(p.tile_t)]
        place = sF.toint() + stage * p.factor_bytes + 16 * cute.arch.lane_idx()
        for i, words in enumerate([*weight_rows, *token_rows] if p.swap else [*token_rows, *weight_rows]):
            cute.arch.inline_ptx(
                "st.shared.v4.b32 [{$r0}], {{$r1}, {$r2}, {$r3}, {$r4}};", read_only_args=[place + 512 * i, *words]
            )

    def chunks(self, rows: int) -> range:
        """First rows of what four columns are for."""
        return range(0, rows, 128)

    def weight_word(self, weights: list[Int32], row: int) -> Int32:
        """Word of the weight row ``row`` + lane of the tile."""
        p = self.plan
        if not p.paired:
            return weights[min(row // BLOCK, len(weights) - 1)]
        if not p.swap:
            return weights[min(row // (p.tile_w // 2), 1)]
        return self.alternating(*weights)

    @cute.jit
    def alternating(self, up: Int32, gate: Int32) -> Int32:
        """Word of this lane's row where up and gate rows alternate."""
        return gate if cute.arch.lane_idx() // self.plan.interleave % 2 == 1 else up

    def token_word(self, sS, stage: Int32, row: int) -> Int32:
        """Word of the token row ``row`` + lane of the tile, any where the tile has no such row."""
        p = self.plan
        if row >= p.tile_t:
            return Int32(0)
        mine = row + cute.arch.lane_idx()
        mine = cutlass.min(mine, p.tile_t - 1) if p.tile_t % 32 else mine
        return self.word([sS[mine, stage * p.k_per_stage + u] for u in range(p.k_per_stage)])

    def word(self, scales: list[Float32]) -> Int32:
        """A row's factors, a byte for each K block of the stage."""
        word = self.exponent(scales[0])
        for u, scale in enumerate(scales[1:], 1):
            word = word | self.exponent(scale) << 8 * u
        return word

    @cute.jit
    def exponent(self, scale: Float32) -> Int32:
        """The biased exponent of a power of two, else NaN, as a scale of 8 bits."""
        bits = float_bits(scale)
        # A sign or a mantissa; then 0, which has no exponent, and infinity.
        field = bits >> 23
        wrong = ((bits & Int32(-0x7F800001)) != 0) | (field == 0) | (field == 255)
        return Int32(NOT_A_POWER) if wrong else field

    def arrive(self, full, rank: Int32) -> None:
        """One arrival of this warp at the ``full`` barrier that the issuer of its MMAs waits on."""
        address, space = full.toint(), "shared"
        if self.plan.pair:
            map_address = "mapa.shared::cluster.u32 {$w0}, {$r0}, {$r1};"
            leader = self.producer.here(rank) // 2 * 2
            address = cute.arch.inline_ptx(map_address, write_only_types=[Int32], read_only_args=[address, leader])
            space = "shared::cluster"
        cute.arch.inline_ptx(
            f"mbarrier.arrive.{space}.b64 _, [{{$r0}}];",
            read_only_args=[address],
            predicate=cute.arch.lane_idx() == 0,
        )

    # The MMA warp.

    @cute.jit
    def multiply(self, sW, sX, sF, tmem, full, empty, ready, drained, counts, alone):
        """The MMA warp: per tile, one accumulator in tensor memory."""
        p = self.plan
        self.producer.wait(alone)
        shape = p.mma_shape
        frag_a, frag_b = self._fragments(self._tiled_mma(shape), sW, sX)
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
                cute.arch.mbarrier_wait(drained + a, a_phase)
                self.fence("after")
                for k in cutlass.range(p.k_blocks // p.k_per_stage, unroll=1):
                    cute.arch.mbarrier_wait(full + stage, phase)
                    self.fence("after")
                    if cutlass.const_expr(p.gather and not p.gather4):
                        # cp.async writes by the generic proxy, the tensor core reads by the asynchronous one.
                        cute.arch.fence_proxy("async.shared", space="cta")
                    self.copy_factors(sF, tmem, stage)
                    if cutlass.const_expr(p.narrow > 0):
                        if few:
                            self.issue_stage(p.narrow, frag_a, frag_b, tmem, a, stage, k > 0)
                        else:
                            self.issue_stage(shape[1], frag_a, frag_b, tmem, a, stage, k > 0)
                    else:
                        self.issue_stage(shape[1], frag_a, frag_b, tmem, a, stage, k > 0)
                    if k == p.k_blocks // p.k_per_stage - 1:
                        self.commit(ready + a, both, p.pair)
                    self.commit(empty + stage, empties, p.cluster > 1)
                    stage, phase = self.advance(stage, phase, p.stages)
                a, a_phase = self.advance(a, a_phase, p.acc_stages)
                tile = tile + p.ctas // p.cluster

    @cute.jit
    def copy_factors(self, sF, tmem, stage: Int32):
        """A stage's factors to tensor memory; MMAs that the same thread issues later find them there."""
        p = self.plan
        group = 2 if p.pair else 1
        # Rows of 16 bytes without swizzle: eight rows, 128 bytes, follow one another.
        start = (sF.toint() + stage * p.factor_bytes) >> 4
        column = tmem.toint() + self.factors_at + stage * p.factor_columns
        with cute.arch.elect_one():
            for i in cutlass.range_constexpr(p.factor_columns // 4):
                descriptor = Int64((start + 32 * i) & 0x3FFF) | Int64(1 << 46 | 8 << 32)
                cute.arch.inline_ptx(
                    f"tcgen05.cp.cta_group::{group}.32x128b.warpx4 [{{$r0}}], {{$r1}};",
                    read_only_args=[column + 4 * i, descriptor],
                )

    def issue_stage(self, n: int, frag_a, frag_b, tmem, a: Int32, stage: Int32, adds: Boolean) -> None:
        """The MMAs of one stage, N of them ``n``; the first K step overwrites the accumulator unless it ``adds``."""
        p = self.plan
        mma = self._tiled_mma((p.mma_shape[0], n))
        layout = mma.make_fragment_C(mma.partition_shape_C((p.mma_shape[0], n))).layout
        factors = cute.recast_ptr(tmem + (self.factors_at + stage * p.factor_columns), dtype=E8M0)
        for u, s in itertools.product(range(p.k_per_stage), range(p.mmas)):
            acc = cute.make_tensor(tmem + (a * p.acc_columns + s * p.mma_shape[1]), layout)[(None, 0, 0)]
            # A step of one byte is the next scale id.
            mma.set(tcgen05.Field.SFA, factors + (16 * s + u))
            mma.set(tcgen05.Field.SFB, factors + (16 * p.mmas + u))
            slot = stage * p.k_per_stage + u
            for k in range(BLOCK // 32):
                mma.set(tcgen05.Field.ACCUMULATE, adds if u == k == 0 else True)
                cute.gemm(mma, acc, frag_a[(None, s, k, slot)], frag_b[(None, 0, k, slot)], acc)

    # The promotion warps, which have nothing to promote.

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
        """All loads of one tile under way together; the accumulator goes back to the MMAs behind their wait."""
        p = self.plan
        stage, phase, a, a_phase = rings
        cute.arch.mbarrier_wait(ready + a, a_phase)
        self.fence("after")
        step = p.loaded(width)
        parts = [(s, first) for s in range(p.subs) for first in range(0, width, step)]
        loads = [self.load(tmem + (a * p.acc_columns + s * p.width + first), step) for s, first in parts]
        cute.arch.inline_ptx("tcgen05.wait::ld.sync.aligned;")
        self.hand_back(drained + a, peer)
        for (s, first), coming in zip(parts, loads, strict=True):
            self.keep(acc[s], first // 2, coming)
        a, a_phase = self.advance(a, a_phase, p.acc_stages)
        return stage, phase, a, a_phase

    def keep(self, acc, first: int, coming) -> None:
        """Loaded values as sums from ``first`` on."""
        for i in range(cute.size(coming)):
            acc[first + i] = float_of(coming[i])
