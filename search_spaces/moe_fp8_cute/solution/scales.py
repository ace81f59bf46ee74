"""Block scales inside the grouped GEMMs: who holds which scale, and how an accumulator is promoted with them.

Weight scales of a tile (one per 128x128 block of weights) live in the lanes of every consumer warp: lane ``l`` holds
the K blocks ``l`` and ``l + 32``; a shuffle broadcasts the one that is due. Token scales (one per token and K block)
arrive in shared memory with their stage.

Fragment coordinates (wgmma, float32): element ``c + 2 * h + 4 * j`` of a thread is row
``16 * warp + lane // 4 + 8 * h`` of the 64-row MMA and column ``8 * j + 2 * (lane % 4) + c``.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64

from .budget import BLOCK, GemmPlan


def packed(low, high) -> Int64:
    """Two 32-bit values in one register of 64, for FMAs of two float32 at a time.

    Sums that stay packed for a whole loop need not be moved: as pairs of float32 that are packed for each FMA, the
    compiler kept a second copy of them, 64 moves in a K block of a 128 x 256 tile.
    """
    return cute.arch.inline_ptx("mov.b64 {$w0}, {{$r0}, {$r1}};", write_only_types=[Int64], read_only_args=[low, high])


def unpacked(pair: Int64) -> tuple[Float32, Float32]:
    """The two values of :func:`packed`."""
    return cute.arch.inline_ptx(
        "mov.b64 {{$w0}, {$w1}}, {$r0};", write_only_types=[Float32, Float32], read_only_args=[pair]
    )


def float_bits(value: Float32) -> Int32:
    """The 32 bits of a float32; as an instruction of its own, it stays behind a wait that stands before it."""
    return cute.arch.inline_ptx("mov.b32 {$w0}, {$r0};", write_only_types=[Int32], read_only_args=[value])


def float_of(bits: Int32) -> Float32:
    """The float32 with these bits, likewise."""
    return cute.arch.inline_ptx("mov.b32 {$w0}, {$r0};", write_only_types=[Float32], read_only_args=[bits])


class Scales:
    """Loads and applies the scales of one plan."""

    def __init__(self, plan: GemmPlan):
        self.plan = plan
        self.chunks = (plan.k_blocks + 31) // 32
        self.lane_values = plan.scale_rows * self.chunks
        # Swap-AB: a scale per accumulator column; otherwise one per accumulator row (h = 0, 1 of each 64 rows).
        self.token_values = plan.tile_t // 4 if plan.swap else 2 * plan.token_subs

    @cute.jit
    def load_weights(self, ws: cute.Tensor, lanes: cute.Tensor, expert: Int32, weight_tile: Int32, first: Int32, valid):
        """Lane-held weight scales of a tile; zeros without a memory access when the tile is not ``valid``.

        Shapes:
            ws: [E, N/128, K/128] float32. lanes: [scale_rows * chunks] float32 registers.
        """
        p = self.plan
        lane = cute.arch.lane_idx()
        for i in cutlass.range_constexpr(p.scale_rows):
            block = weight_tile * p.columns // BLOCK + i
            if cutlass.const_expr(p.paired):
                block = weight_tile * p.columns // BLOCK + i * (p.n // 2 // BLOCK)
            for c in cutlass.range_constexpr(self.chunks):
                value = Float32(0.0)
                if valid and lane + 32 * c < p.k_blocks:
                    value = ws[expert, block, first + lane + 32 * c]
                lanes[i * self.chunks + c] = value

    @cute.jit
    def weight(self, lanes: cute.Tensor, row: cutlass.Constexpr, k_block: Int32) -> Float32:
        """Weight scale ``row`` of K block ``k_block`` of the tile, in every lane."""
        value = lanes[row * self.chunks]
        if cutlass.const_expr(self.chunks == 2):
            value = value if k_block < 32 else lanes[row * self.chunks + 1]
        return cute.arch.shuffle_sync(value, offset=k_block & 31)

    @cute.jit
    def load_tokens(self, sS: cute.Tensor, values: cute.Tensor, stage: Int32, row: Int32, first: cutlass.Constexpr = 0):
        """Token scales of a stage into registers.

        Tokens as M: ``row`` is the thread's first accumulator row in the token tile. Swapped: ``first`` is the first of
        the accumulator columns that ``values`` covers.
        """
        if cutlass.const_expr(self.plan.swap):
            column = 2 * (cute.arch.lane_idx() % 4)
            for j in cutlass.range_constexpr(cute.size(values) // 2):
                values[2 * j] = sS[first + 8 * j + column, stage]
                values[2 * j + 1] = sS[first + 8 * j + column + 1, stage]
        else:
            for t in cutlass.range_constexpr(self.plan.token_subs):
                values[2 * t] = sS[row + self.plan.cta_m * t, stage]
                values[2 * t + 1] = sS[row + self.plan.cta_m * t + 8, stage]

    @cute.jit
    def promote(
        self,
        acc: cute.Tensor,
        tmp: cute.Tensor,
        values: cute.Tensor,
        lanes: cute.Tensor,
        sub: cutlass.Constexpr,
        k: Int32,
    ):
        """``acc += tmp * token scale * weight scale`` for K block ``k`` and (columns of) accumulator ``sub``."""
        p = self.plan
        if cutlass.const_expr(not p.swap):
            self.promote_rows(acc, tmp, self.factors(values, lanes, sub, k))
        else:
            w = [self.weight(lanes, row, k) for row in ((0, 1) if p.paired else (sub * p.sub_w // BLOCK,))]
            for j in cutlass.range_constexpr(cute.size(tmp) // 4):
                for h in cutlass.range_constexpr(2):
                    f = w[h % len(w)]
                    self.add(acc, tmp, 4 * j + 2 * h, values[2 * j] * f, values[2 * j + 1] * f)

    def factors(self, values: cute.Tensor, lanes: cute.Tensor, sub: int, k: Int32) -> list[Float32]:
        """Factors of accumulator ``sub`` in K block ``k``, tokens as M: one for each of the thread's two rows.

        Where up and gate share the accumulator, two more for its gate half. Made while the MMAs run, to hide shuffles.
        """
        p = self.plan
        t, s = sub // p.weight_subs, sub % p.weight_subs
        weights = [self.weight(lanes, row, k) for row in ((0, 1) if p.joined else (s,))]
        return [values[2 * t + h] * w for w in weights for h in range(2)]

    def promote_rows(self, acc: cute.Tensor, tmp: cute.Tensor, factors: list[Float32]) -> None:
        """``acc += tmp * factor``, tokens as M."""
        pairs = cute.size(tmp) // 4
        for j in range(pairs):
            half = 2 * (j * len(factors) // 2 // pairs)
            for h in range(2):
                self.add(acc, tmp, 4 * j + 2 * h, factors[half + h], factors[half + h])

    def add(self, acc: cute.Tensor, tmp: cute.Tensor, i: int, first: Float32, second: Float32) -> None:
        """``acc += tmp * factor`` for elements ``i`` and ``i + 1``; for one instruction that does both, sums are
        :func:`packed`."""
        if self.plan.packed_fma:
            value, factor = packed(tmp[i], tmp[i + 1]), packed(first, second)
            acc[i // 2] = cute.arch.inline_ptx(
                "fma.rn.f32x2 {$w0}, {$r0}, {$r1}, {$r2};",
                write_only_types=[Int64],
                read_only_args=[value, factor, acc[i // 2]],
            )
        else:
            acc[i] = acc[i] + tmp[i] * first
            acc[i + 1] = acc[i + 1] + tmp[i + 1] * second
