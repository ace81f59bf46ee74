"""SwiGLU and FP8 requantisation: the pieces that epilogues use, and the kernel of configs that keep them apart."""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32

from .budget import BLOCK
from .scales import float_bits, float_of

FP8_MAX = 448.0
"""Largest finite E4M3 value: a block's scale is its largest magnitude over this."""
LOG2_E = 1.4426950408889634


def silu_mul(gate: Float32, up: Float32) -> Float32:
    """``gate / (1 + exp(-gate)) * up``."""
    sigmoid = cute.arch.rcp_approx(1.0 + cute.math.exp2(gate * Float32(-LOG2_E), fastmath=True))
    return gate * sigmoid * up


def pack_e4m3(low: Float32, high: Float32 | None = None):
    """One value as Uint8, or two as Uint16 with ``low`` in the low byte; rounds to nearest even and saturates."""
    two = cute.arch.inline_ptx(
        "cvt.rn.satfinite.e4m3x2.f32 {$w0}, {$r1}, {$r0};",
        write_only_types=[cutlass.Uint16],
        read_only_args=[low, Float32(0.0) if high is None else high],
    )
    return two.to(cutlass.Uint8) if high is None else two


def fp8_factor(top: Float32, power_of_two: bool) -> Float32:
    """What a block of 128 values with the largest magnitude ``top`` is multiplied with before it becomes FP8."""
    if not power_of_two:
        return FP8_MAX * cute.arch.rcp_approx(top)
    # 2^-n has the exponent 254 - (n + 127).
    return float_of(Int32(254 << 23) - float_bits(fp8_scale(top, True)))


def fp8_scale(top: Float32, power_of_two: bool) -> Float32:
    """The scale of such a block; the next higher power of two where it must be one."""
    scale = top * Float32(1.0 / FP8_MAX)
    if not power_of_two:
        return scale
    return float_of((float_bits(scale) + Int32(0x7FFFFF)) & Int32(-0x800000))


class ActQuant:
    """Sum of partial GEMM 1 results, SwiGLU, FP8 rows and scales: one warp per row and block of 128 columns.

    Shapes:
        partial: [S, P, 2 I] float32, first half up, second half gate. counts: [E], m_indptr: [E + 1] int32.
        out: [P, I] float8_e4m3fn. out_scale: [I/128, P] float32. Rows outside the experts' segments are not touched.
    """

    def __init__(
        self,
        intermediate: int,
        experts: int,
        row_align: int,
        batched: bool,
        splits: int,
        ctas: int,
        power_of_two: bool,
        pdl: bool,
    ):
        self.intermediate = intermediate
        self.experts = experts
        self.row_align = row_align
        self.batched = batched
        self.splits = splits
        self.ctas = ctas
        self.power_of_two = power_of_two
        self.pdl = pdl

    @cute.jit
    def __call__(self, partial, counts, m_indptr, out, out_scale, max_m, stream):
        """Launch one kernel."""
        self.kernel.set_name_prefix("moe_act_quant", remove_cutlass_symbol=True, keep_mangled_name=False)
        self.kernel(partial, counts, m_indptr, out, out_scale, max_m).launch(
            grid=(self.ctas, 1, 1), block=(256, 1, 1), stream=stream, use_pdl=self.pdl
        )

    @cute.kernel
    def kernel(self, partial, counts, m_indptr, out, out_scale, max_m: Int32):
        """Grid-stride loop over (row, block)."""
        if cutlass.const_expr(self.pdl):
            cute.arch.griddepcontrol_wait()
            cute.arch.griddepcontrol_launch_dependents()
        blocks = self.intermediate // BLOCK
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        item = cute.arch.block_idx()[0] * 8 + warp
        total = m_indptr[self.experts] * blocks
        while item < total:
            row, block = item // blocks, item % blocks
            used = cutlass.Boolean(True)
            if cutlass.const_expr(self.batched):
                expert = row // max_m
                used = row - expert * max_m < (counts[expert] + self.row_align - 1) // self.row_align * self.row_align
            if used:
                self.one(partial, out, out_scale, row, block)
            item = item + self.ctas * 8

    @cute.jit
    def one(self, partial, out, out_scale, row: Int32, block: Int32):
        """Four neighbouring columns per lane."""
        column = block * BLOCK + 4 * cute.arch.lane_idx()
        up = cute.make_rmem_tensor((4,), Float32)
        gate = cute.make_rmem_tensor((4,), Float32)
        up.fill(0.0)
        gate.fill(0.0)
        for s in cutlass.range_constexpr(self.splits):
            for half, target in ((0, up), (1, gate)):
                at = cutlass.Int64(s) * partial.shape[1] + row
                source = partial.iterator + (at * (2 * self.intermediate) + half * self.intermediate + column)
                four = cute.make_rmem_tensor((4,), Float32)
                cute.autovec_copy(cute.make_tensor(source.align(16), cute.make_layout(4)), four)
                for i in cutlass.range_constexpr(4):
                    target[i] = target[i] + four[i]
        top = Float32(1e-10)
        for i in cutlass.range_constexpr(4):
            up[i] = silu_mul(gate[i], up[i])
            top = cute.arch.fmax(top, cute.arch.fmax(up[i], -up[i]))
        for step in (1, 2, 4, 8, 16):
            top = cute.arch.fmax(top, cute.arch.shuffle_sync_bfly(top, offset=step))
        inverse = fp8_factor(top, self.power_of_two)
        target = cute.recast_ptr(
            (out.iterator + (cutlass.Int64(row) * self.intermediate + column)).align(4), dtype=cutlass.Uint16
        )
        pairs = cute.make_tensor(target, cute.make_layout(2))
        pairs[0] = pack_e4m3(up[0] * inverse, up[1] * inverse)
        pairs[1] = pack_e4m3(up[2] * inverse, up[3] * inverse)
        if cute.arch.lane_idx() == 0:
            out_scale[block, row] = fp8_scale(top, self.power_of_two)
