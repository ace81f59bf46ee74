"""An epilogue beside the next tile: finished rows go through shared memory to a warp that has nothing else to do."""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Float32, Int32, Int64

from .epilogue import Epilogue
from .operands import Operands
from .scales import packed, unpacked

BATCH = 4
"""16-byte pieces that a lane reads before it stores them: their latencies overlap."""


class HandedRows(Epilogue):
    """bfloat16 rows, tokens as M: promotion warps leave them in shared memory, a producer warp stores or adds them.

    Two barriers, a phase of each per tile. ``free``: the rows of the tile before have been read, and with
    ``atomic_bf16`` this tile's routing weights lie where its rows will: in the first four bytes of each. ``full``:
    every promotion warp has left its 16 rows.

    A row has ``2 * tile_w`` bytes. Its 16-byte pieces change places by the row's number modulo eight, so that the eight
    rows a warp writes at a time, and the row it reads at a time, meet each bank once.
    """

    def allocate(self, smem):
        size = 2 * self.plan.tile_t * self.plan.tile_w
        rows = smem.allocate_tensor(cutlass.Uint8, cute.make_layout(size), byte_alignment=128)
        return rows, smem.allocate_array(Int64, 2)

    def init_barriers(self, shared) -> None:
        cute.arch.mbarrier_init(shared[1], self.warps)
        cute.arch.mbarrier_init(shared[1] + 1, 1)

    @cute.jit
    def arrive(self, barrier):
        """One arrival, when all lanes of the warp are here."""
        cute.arch.sync_warp()
        with cute.arch.elect_one():
            cute.arch.mbarrier_arrive(barrier)

    @cute.jit
    def store(
        self, acc, shared, operands: Operands, row0: Int32, weight_tile: Int32, part: Int32, done: Int32, left: Int32
    ):
        """Leave this warp's 16 rows for :meth:`take`."""
        p = self.plan
        rows, full = shared
        warp, high, quad = self.place()
        pitch = 2 * p.tile_w
        slab = rows.iterator.toint() + (16 * warp + high) * pitch
        weight = cute.make_rmem_tensor((2,), Float32)
        weight.fill(1.0)
        cute.arch.mbarrier_wait(full + 1, done & 1)
        if cutlass.const_expr(p.out == "atomic_bf16"):
            for h in cutlass.range_constexpr(2):
                weight[h] = self.weight(slab + 8 * h * pitch)
            cute.arch.sync_warp()
        for j in cutlass.range_constexpr(8):
            place = slab + (((16 * j) ^ (16 * high)) + 4 * quad)
            for s in cutlass.range_constexpr(p.weight_subs):
                for half in cutlass.range_constexpr(p.sub_w // 64):
                    for h in cutlass.range_constexpr(2):
                        i = 2 * h + 4 * (8 * half + j)
                        two = self.scaled(acc[s][i], acc[s][i + 1], weight[h])
                        self.leave(place, 8 * h * pitch + 2 * p.sub_w * s + 128 * half, two)
        self.arrive(full)

    def weight(self, address: Int32) -> Float32:
        """A routing weight in shared memory."""
        return cute.arch.inline_ptx(
            "ld.shared.f32 {$w0}, [{$r0}];", write_only_types=[Float32], read_only_args=[address]
        )

    def scaled(self, low: Float32, high: Float32, weight: Float32) -> Int32:
        """Two values times a weight, as bfloat16 in one register."""
        if self.plan.out == "atomic_bf16":
            both = cute.arch.inline_ptx(
                "mul.rn.f32x2 {$w0}, {$r0}, {$r1};",
                write_only_types=[Int64],
                read_only_args=[packed(low, high), packed(weight, weight)],
            )
            low, high = unpacked(both)
        return cute.arch.inline_ptx(
            "cvt.rn.bf16x2.f32 {$w0}, {$r0}, {$r1};", write_only_types=[Int32], read_only_args=[high, low]
        )

    def leave(self, address: Int32, offset: int, two: Int32) -> None:
        """Write two values into shared memory; as a tensor, each of 64 addresses would first be rounded up to four."""
        cute.arch.inline_ptx(f"st.shared.b32 [{{$r0}}+{offset}], {{$r1}};", read_only_args=[address, two])

    @cute.jit
    def take(self, shared, operands: Operands, row0: Int32, weight_tile: Int32, done: Int32):
        """One warp: write a tile's rows to [P, N] bfloat16, or add those of tokens to [T, N]."""
        p = self.plan
        rows, full = shared
        lane, pitch = cute.arch.lane_idx(), 2 * p.tile_w
        target_row = cute.make_rmem_tensor((p.tile_t // 32,), Int32)
        for i in cutlass.range_constexpr(p.tile_t // 32):
            row = lane + 32 * i
            target_row[i] = row0 + row
            if cutlass.const_expr(p.out == "atomic_bf16"):
                target_row[i] = operands.row_token[row0 + row]
                target = cute.recast_ptr((rows.iterator + row * pitch).align(4), dtype=Float32)
                cute.make_tensor(target, cute.make_layout(1))[0] = operands.row_weight[row0 + row]
        self.arrive(full + 1)
        cute.arch.mbarrier_wait(full, done & 1)
        per_row = p.tile_w // 8
        together = 32 // per_row
        piece, below = lane % per_row, lane // per_row
        column = weight_tile * p.tile_w + 8 * piece
        for i in cutlass.range_constexpr(p.tile_t // 32):
            for first in cutlass.range(0, 32, BATCH * together, unroll=1):
                read = [cute.make_rmem_tensor((4,), Int32) for _ in range(BATCH)]
                for n in cutlass.range_constexpr(BATCH):
                    row = 32 * i + first + together * n + below
                    source = rows.iterator + (row * pitch + 16 * (piece ^ (row & 7)))
                    source = cute.recast_ptr(source.align(16), dtype=Int32)
                    cute.autovec_copy(cute.make_tensor(source, cute.make_layout(4)), read[n])
                for n in cutlass.range_constexpr(BATCH):
                    row = cute.arch.shuffle_sync(target_row[i], offset=first + together * n + below)
                    self.put_piece(operands.out.iterator + (Int64(row) * p.n + column), read[n], row >= 0)
        cute.arch.sync_warp()

    def put_piece(self, pointer, four, valid: Boolean) -> None:
        """Store eight bfloat16 values, or add them where ``valid``; no branch, so the next ones follow at once."""
        if self.plan.out == "finalize":
            target = cute.recast_ptr(pointer.align(16), dtype=Int32)
            cute.autovec_copy(four, cute.make_tensor(target, cute.make_layout(4)))
            return
        cute.arch.inline_ptx(
            "red.relaxed.gpu.global.add.noftz.v4.bf16x2 [{$r0}], {{$r1}, {$r2}, {$r3}, {$r4}};",
            read_only_args=[pointer.toint(), four[0], four[1], four[2], four[3]],
            predicate=valid,
        )
