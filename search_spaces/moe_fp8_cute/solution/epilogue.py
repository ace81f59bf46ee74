"""Epilogues of the grouped GEMMs: they turn accumulators in registers into rows in memory.

An epilogue sees accumulator fragments and the coordinates that scales.py describes, never the MMA, so the same code
serves wgmma and tensor memory. Swapped, sub accumulator ``s`` of a thread covers weight rows ``64 * groups * s + 16 *
slab + lane // 4 + 8 * h`` and tokens ``8 * j + 2 * (lane % 4) + c``; not swapped, accumulator ``(t, s)`` covers tokens
``64 * groups * t + 16 * slab + lane // 4 + 8 * h`` and weight rows ``sub_w * s + 8 * j + 2 * (lane % 4) + c``. The plan
says which ``slab`` a consumer warp has. ``left`` is how many rows the expert has from the warpgroup's first row on
(tokens as M): 64 rows that are all filling are not stored.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Float32, Int32, Int64
from cutlass.pipeline import NamedBarrier

from .act_quant import fp8_factor, fp8_scale, pack_e4m3, silu_mul
from .budget import BLOCK, SWAP_PITCH, GemmPlan
from .operands import Operands


class Epilogue:
    """What all epilogues share: thread coordinates, an optional shared memory part, an optional barrier."""

    def __init__(self, plan: GemmPlan):
        self.plan = plan
        self.warps = 4 * plan.groups
        self.consumers = NamedBarrier(barrier_id=1, num_threads=32 * self.warps)

    def allocate(self, smem):
        """Shared memory of this epilogue (a tuple of tensors, possibly empty)."""
        return ()

    def init_barriers(self, shared) -> None:
        """Barriers beyond those of the pipeline; called by one thread."""

    def tokens(self, acc) -> int:
        """Token columns of swapped accumulators: a thread has one of 32 rows, and so half a value for each."""
        return 2 * cute.size(acc[0])

    def place(self) -> tuple[Int32, Int32, Int32]:
        """(16-row slab of this consumer warp, lane // 4, lane % 4)."""
        lane = cute.arch.lane_idx()
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx()) - 4
        return self.plan.slab(warp), lane // 4, lane % 4

    @cute.jit
    def put(self, pointer, four, valid):
        """Store eight bfloat16 values, or add them where ``valid`` (``atomic_bf16``)."""
        if cutlass.const_expr(self.plan.out == "finalize"):
            target = cute.recast_ptr(pointer.align(16), dtype=Int32)
            cute.autovec_copy(four, cute.make_tensor(target, cute.make_layout(4)))
        else:
            if valid:
                cute.arch.inline_ptx(
                    "red.relaxed.gpu.global.add.noftz.v4.bf16x2 [{$r0}], {{$r1}, {$r2}, {$r3}, {$r4}};",
                    read_only_args=[pointer.toint(), four[0], four[1], four[2], four[3]],
                )


class SwapAct(Epilogue):
    """SwiGLU and requantisation, weights as M: columns of 128 are spread over lanes, warps and, for narrow tiles, CTAs.

    Each warp reduces |v| of its 8 columns by shuffles; the warps' maxima meet in shared memory, those of a cluster by
    asynchronous stores into every CTA of it. Two buffers alternate: a CTA can be at most one tile ahead of its
    neighbours.
    """

    def allocate(self, smem):
        p = self.plan
        shape = (p.tile_t, self.warps * p.amax_ctas, 2)
        amax = smem.allocate_tensor(Float32, cute.make_layout(shape), byte_alignment=16)
        pitch = p.columns + 16
        quant = smem.allocate_tensor(
            cutlass.Uint8, cute.make_layout((p.columns, p.tile_t), stride=(1, pitch)), byte_alignment=16
        )
        bars = smem.allocate_array(Int64, 2)
        return amax, quant, bars

    def init_barriers(self, shared) -> None:
        for i in range(2):
            cute.arch.mbarrier_init(shared[2] + i, 1)

    @cute.jit
    def exchange(self, shared, column: cutlass.Constexpr, value: Float32, done: Int32):
        """Put this warp's maximum of a token where every consumer that needs it can read it."""
        amax, _quant, bars = shared
        warp, _, quad = self.place()
        slot = 8 * (column // 2) + 2 * quad + column % 2
        buffer = done & 1
        if cutlass.const_expr(self.plan.amax_ctas == 1):
            amax[slot, warp, buffer] = value
        else:
            rank = cute.arch.block_idx_in_cluster()
            ctas = self.plan.amax_ctas
            first = rank // ctas * ctas
            offset = slot + self.plan.tile_t * ((rank - first) * self.warps + warp + self.warps * ctas * buffer)
            bits = cute.arch.inline_ptx("mov.b32 {$w0}, {$r0};", write_only_types=[Int32], read_only_args=[value])
            for peer in cutlass.range_constexpr(ctas):
                cute.arch.store_async_dsmem(amax.iterator + offset, bits, bars + buffer, first + peer)

    @cute.jit
    def store(
        self, acc, shared, operands: Operands, row0: Int32, weight_tile: Int32, part: Int32, done: Int32, left: Int32
    ):
        """Write FP8 rows [P, I] and scales [I/128, P]."""
        p = self.plan
        amax, quant, bars = shared
        warp, high, quad = self.place()
        tokens = self.tokens(acc)
        columns = tokens // 4
        buffer = done & 1
        if cutlass.const_expr(p.amax_ctas > 1):
            if cute.arch.thread_idx()[0] == 128:
                cute.arch.mbarrier_arrive_and_expect_tx(bars + buffer, 4 * tokens * self.warps * p.amax_ctas)
        for n in cutlass.range_constexpr(columns):
            i = n % 2 + 4 * (n // 2)
            top = Float32(0.0)
            for s in cutlass.range_constexpr(p.subs):
                v = silu_mul(acc[s][i + 2], acc[s][i])
                acc[s][i] = v
                top = cute.arch.fmax(top, cute.arch.fmax(v, -v))
            for step in (4, 8, 16):
                top = cute.arch.fmax(top, cute.arch.shuffle_sync_bfly(top, offset=step))
            if high == 0:
                self.exchange(shared, n, top, done)
        if cutlass.const_expr(p.amax_ctas > 1):
            cute.arch.mbarrier_wait(bars + buffer, (done >> 1) & 1)
        else:
            self.consumers.arrive_and_wait()
        for n in cutlass.range_constexpr(columns):
            i = n % 2 + 4 * (n // 2)
            token = 8 * (n // 2) + 2 * quad + n % 2
            top = Float32(1e-10)
            for w in cutlass.range_constexpr(self.warps * p.amax_ctas):
                top = cute.arch.fmax(top, amax[token, w, buffer])
            inverse = fp8_factor(top, p.power_of_two)
            for s in cutlass.range_constexpr(p.subs):
                quant[p.sub_w // 2 * s + 8 * warp + high, token] = pack_e4m3(acc[s][i] * inverse)
            if weight_tile % p.amax_ctas == 0 and warp == 0 and high == 0:
                operands.out_scale[weight_tile * p.columns // BLOCK, row0 + token] = fp8_scale(top, p.power_of_two)
        self.consumers.arrive_and_wait()
        self.copy_out(quant, operands.out, row0, weight_tile, tokens)

    @cute.jit
    def copy_out(self, quant, out, row0: Int32, weight_tile: Int32, tokens: cutlass.Constexpr):
        """Copy rows of the transposition buffer to memory, 16 bytes a thread."""
        p = self.plan
        thread = cute.arch.thread_idx()[0] - 128
        per_row = p.columns // 16
        for step in cutlass.range_constexpr((tokens * per_row + 32 * self.warps - 1) // (32 * self.warps)):
            item = thread + step * 32 * self.warps
            if item < tokens * per_row:
                token, chunk = item // per_row, item % per_row
                source = cute.make_tensor(
                    (quant.iterator + (token * (p.columns + 16) + 16 * chunk)).align(16), cute.make_layout(16)
                )
                at = Int64(row0 + token) * (p.n // 2) + weight_tile * p.columns + 16 * chunk
                target = cute.make_tensor(
                    cute.recast_ptr((out.iterator + at).align(16), dtype=cutlass.Uint8), cute.make_layout(16)
                )
                cute.autovec_copy(source, target)


class RowAct(Epilogue):
    """SwiGLU and requantisation, tokens as M: a row's columns lie in four lanes of one warp.

    A tile of 256 weight rows holds 128 columns, so the maximum is known inside the quad. A tile of 128 holds 64 of them
    (``joined``): the two CTAs of a cluster exchange their maxima by asynchronous stores. Each warpgroup has barriers of
    its own, since it may have no rows in a tile where the other one has; two buffers alternate, because a warpgroup can
    be at most one tile ahead of its peer.
    """

    def allocate(self, smem):
        p = self.plan
        slab = smem.allocate_tensor(cutlass.Uint8, cute.make_layout((16 * 144, self.warps)), byte_alignment=16)
        if not p.joined:
            return (slab,)
        amax = smem.allocate_tensor(Float32, cute.make_layout((p.tile_t, p.amax_ctas, 2)), byte_alignment=16)
        return slab, amax, smem.allocate_array(Int64, 2 * p.groups)

    def init_barriers(self, shared) -> None:
        if self.plan.joined:
            for i in range(2 * self.plan.groups):
                cute.arch.mbarrier_init(shared[2] + i, 1)

    @cute.jit
    def store(
        self, acc, shared, operands: Operands, row0: Int32, weight_tile: Int32, part: Int32, done: Int32, left: Int32
    ):
        """Write FP8 rows [P, I] and scales [I/128, P]."""
        p = self.plan
        top = cute.make_rmem_tensor((2 * p.token_subs,), Float32)
        for t in cutlass.range_constexpr(p.token_subs):
            if left > p.cta_m * t:
                self.activate(acc, top, t)
        if cutlass.const_expr(p.joined):
            self.exchange(shared, top, done, left)
        for t in cutlass.range_constexpr(p.token_subs):
            if left > p.cta_m * t:
                self.write(acc, top, shared, operands, row0, weight_tile, t)

    def halves(self, acc, t: int) -> tuple:
        """(up accumulator, gate accumulator, distance of a gate value from its up value) of 64 rows."""
        p = self.plan
        if p.joined:
            return acc[t], acc[t], 64 // 2
        return acc[2 * t], acc[2 * t + 1], 0

    @cute.jit
    def activate(self, acc, top, t: cutlass.Constexpr):
        """SwiGLU in place of the up values; ``top`` gets the largest magnitudes of the thread's two rows."""
        up, gate, offset = self.halves(acc, t)
        for h in cutlass.range_constexpr(2):
            largest = Float32(1e-10)
            for j in cutlass.range_constexpr(self.plan.columns // 8):
                for c in cutlass.range_constexpr(2):
                    i = c + 2 * h + 4 * j
                    v = silu_mul(gate[i + offset], up[i])
                    up[i] = v
                    largest = cute.arch.fmax(largest, cute.arch.fmax(v, -v))
            for step in (1, 2):
                largest = cute.arch.fmax(largest, cute.arch.shuffle_sync_bfly(largest, offset=step))
            top[2 * t + h] = largest

    @cute.jit
    def exchange(self, shared, top, done: Int32, left: Int32):
        """Maxima over the columns of all CTAs of the cluster."""
        p = self.plan
        _slab, amax, bars = shared
        warp, high, quad = self.place()
        buffer = done & 1
        barrier = bars + (2 * (warp // 4) + buffer)
        rank = cute.arch.block_idx_in_cluster()
        if cute.arch.thread_idx()[0] % 128 == 0:
            rows = Int32(64)
            for t in cutlass.range_constexpr(1, p.token_subs):
                rows = rows + (64 if left > p.cta_m * t else 0)
            cute.arch.mbarrier_arrive_and_expect_tx(barrier, 4 * p.amax_ctas * rows)
        for t in cutlass.range_constexpr(p.token_subs):
            if left > p.cta_m * t and quad == 0:
                for h in cutlass.range_constexpr(2):
                    offset = p.cta_m * t + 16 * warp + high + 8 * h + p.tile_t * (rank + p.amax_ctas * buffer)
                    bits = cute.arch.inline_ptx(
                        "mov.b32 {$w0}, {$r0};", write_only_types=[Int32], read_only_args=[top[2 * t + h]]
                    )
                    for peer in cutlass.range_constexpr(p.amax_ctas):
                        cute.arch.store_async_dsmem(amax.iterator + offset, bits, barrier, Int32(peer))
        cute.arch.mbarrier_wait(barrier, (done >> 1) & 1)
        for t in cutlass.range_constexpr(p.token_subs):
            if left > p.cta_m * t:
                for h in cutlass.range_constexpr(2):
                    for peer in cutlass.range_constexpr(p.amax_ctas):
                        theirs = amax[p.cta_m * t + 16 * warp + high + 8 * h, peer, buffer]
                        top[2 * t + h] = cute.arch.fmax(top[2 * t + h], theirs)

    @cute.jit
    def write(self, acc, top, shared, operands: Operands, row0: Int32, weight_tile: Int32, t: cutlass.Constexpr):
        """Requantise 64 rows and store them, 16 bytes a thread."""
        p = self.plan
        warp, high, quad = self.place()
        up, _gate, _offset = self.halves(acc, t)
        slab = shared[0].iterator + warp * (16 * 144)
        first = row0 + p.cta_m * t + 16 * warp
        for h in cutlass.range_constexpr(2):
            largest = top[2 * t + h]
            inverse = fp8_factor(largest, p.power_of_two)
            if quad == 0 and (weight_tile * p.columns) % BLOCK == 0:
                operands.out_scale[weight_tile * p.columns // BLOCK, first + high + 8 * h] = fp8_scale(
                    largest, p.power_of_two
                )
            for j in cutlass.range_constexpr(p.columns // 8):
                i = 2 * h + 4 * j
                two = pack_e4m3(up[i] * inverse, up[i + 1] * inverse)
                target = cute.recast_ptr(
                    (slab + ((high + 8 * h) * 144 + 8 * j + 2 * quad)).align(2), dtype=cutlass.Uint16
                )
                cute.make_tensor(target, cute.make_layout(1))[0] = two
        cute.arch.sync_warp()
        lane = cute.arch.lane_idx()
        per_row = p.columns // 16
        for step in cutlass.range_constexpr(16 * per_row // 32):
            item = lane + 32 * step
            row, chunk = item // per_row, item % per_row
            source = cute.make_tensor((slab + (row * 144 + 16 * chunk)).align(16), cute.make_layout(16))
            at = Int64(first + row) * (p.n // 2) + weight_tile * p.columns + 16 * chunk
            target = cute.make_tensor(
                cute.recast_ptr((operands.out.iterator + at).align(16), dtype=cutlass.Uint8), cute.make_layout(16)
            )
            cute.autovec_copy(source, target)
        cute.arch.sync_warp()


class RowStore(Epilogue):
    """bfloat16 rows, tokens as M: 16 rows of 64 columns at a time through a warp's own slab, then 16 bytes a thread.

    With ``finalize`` they are stored; with ``atomic_bf16`` they are multiplied by the routing weight and added to the
    token's row of a zeroed output.
    """

    def allocate(self, smem):
        return (smem.allocate_tensor(cutlass.Uint8, cute.make_layout((16 * 144, self.warps)), byte_alignment=16),)

    @cute.jit
    def store(
        self, acc, shared, operands: Operands, row0: Int32, weight_tile: Int32, part: Int32, done: Int32, left: Int32
    ):
        """Write [P, N] bfloat16 or add to [T, N] bfloat16."""
        for t in cutlass.range_constexpr(self.plan.token_subs):
            if left > self.plan.cta_m * t:
                self.rows(acc, shared, operands, row0, weight_tile, t)

    @cute.jit
    def rows(self, acc, shared, operands: Operands, row0: Int32, weight_tile: Int32, t: cutlass.Constexpr):
        """Store or add 64 rows per warpgroup."""
        p = self.plan
        warp, high, quad = self.place()
        lane = cute.arch.lane_idx()
        slab = shared[0].iterator + warp * (16 * 144)
        first = row0 + p.cta_m * t + 16 * warp
        weight = cute.make_rmem_tensor((2,), Float32)
        weight.fill(1.0)
        target_row = cute.make_rmem_tensor((4,), Int32)
        for step in cutlass.range_constexpr(4):
            target_row[step] = first + lane // 8 + 4 * step
        if cutlass.const_expr(p.out == "atomic_bf16"):
            for h in cutlass.range_constexpr(2):
                weight[h] = operands.row_weight[first + high + 8 * h]
            for step in cutlass.range_constexpr(4):
                target_row[step] = operands.row_token[first + lane // 8 + 4 * step]
        for s in cutlass.range_constexpr(p.weight_subs):
            for half in cutlass.range_constexpr(p.sub_w // 64):
                for h in cutlass.range_constexpr(2):
                    for j in cutlass.range_constexpr(8):
                        i = 2 * h + 4 * (8 * half + j)
                        two = cute.make_rmem_tensor((2,), BFloat16)
                        two[0] = (acc[t * p.weight_subs + s][i] * weight[h]).to(BFloat16)
                        two[1] = (acc[t * p.weight_subs + s][i + 1] * weight[h]).to(BFloat16)
                        at = slab + ((high + 8 * h) * 144 + 16 * j + 4 * quad)
                        target = cute.make_tensor(cute.recast_ptr(at.align(4), dtype=BFloat16), cute.make_layout(2))
                        cute.autovec_copy(two, target)
                cute.arch.sync_warp()
                column = weight_tile * p.tile_w + p.sub_w * s + 64 * half
                for step in cutlass.range_constexpr(4):
                    row, chunk = lane // 8 + 4 * step, lane % 8
                    source = cute.recast_ptr((slab + (row * 144 + 16 * chunk)).align(16), dtype=Int32)
                    four = cute.make_rmem_tensor((4,), Int32)
                    cute.autovec_copy(cute.make_tensor(source, cute.make_layout(4)), four)
                    at = Int64(target_row[step]) * p.n + column + 8 * chunk
                    self.put(operands.out.iterator + at, four, target_row[step] >= 0)
                cute.arch.sync_warp()


class SwapRows(Epilogue):
    """bfloat16 rows, weights as M: a warp turns its 16 columns of all tokens over in a slab of its own.

    The accumulator spreads a token's columns over lanes; afterwards a lane has eight of them, 16 bytes. ``finalize``
    and ``atomic_bf16`` are as in :class:`RowStore`.
    """

    def allocate(self, smem):
        layout = cute.make_layout((SWAP_PITCH * self.plan.tile_t, self.warps))
        return (smem.allocate_tensor(cutlass.Uint8, layout, byte_alignment=16),)

    @cute.jit
    def store(
        self, acc, shared, operands: Operands, row0: Int32, weight_tile: Int32, part: Int32, done: Int32, left: Int32
    ):
        """Write [P, N] bfloat16 or add to [T, N] bfloat16."""
        p = self.plan
        warp, high, quad = self.place()
        lane, tokens = cute.arch.lane_idx(), self.tokens(acc)
        slab = shared[0].iterator + warp * (SWAP_PITCH * p.tile_t)
        weight = cute.make_rmem_tensor((tokens // 4,), Float32)
        weight.fill(1.0)
        steps = (2 * tokens + 31) // 32
        target_row = cute.make_rmem_tensor((steps,), Int32)
        target_row.fill(-1)
        for step in cutlass.range_constexpr(steps):
            if lane + 32 * step < 2 * tokens:
                target_row[step] = row0 + (lane + 32 * step) // 2
        if cutlass.const_expr(p.out == "atomic_bf16"):
            for n in cutlass.range_constexpr(tokens // 4):
                weight[n] = operands.row_weight[row0 + 8 * (n // 2) + 2 * quad + n % 2]
            for step in cutlass.range_constexpr(steps):
                if target_row[step] >= 0:
                    target_row[step] = operands.row_token[target_row[step]]
        for s in cutlass.range_constexpr(p.weight_subs):
            for n in cutlass.range_constexpr(tokens // 4):
                token = 8 * (n // 2) + 2 * quad + n % 2
                for h in cutlass.range_constexpr(2):
                    one = cute.make_rmem_tensor((1,), BFloat16)
                    one[0] = (acc[s][n % 2 + 4 * (n // 2) + 2 * h] * weight[n]).to(BFloat16)
                    at = slab + (SWAP_PITCH * token + 2 * (high + 8 * h))
                    target = cute.make_tensor(cute.recast_ptr(at.align(2), dtype=BFloat16), cute.make_layout(1))
                    cute.autovec_copy(one, target)
            cute.arch.sync_warp()
            for step in cutlass.range_constexpr(steps):
                if target_row[step] >= 0:
                    item = lane + 32 * step
                    source = slab + (SWAP_PITCH * (item // 2) + 16 * (item % 2))
                    four = cute.make_rmem_tensor((4,), Int32)
                    source = cute.recast_ptr(source.align(16), dtype=Int32)
                    cute.autovec_copy(cute.make_tensor(source, cute.make_layout(4)), four)
                    column = weight_tile * p.tile_w + p.sub_w * s + 16 * warp + 8 * (item % 2)
                    self.put(operands.out.iterator + (Int64(target_row[step]) * p.n + column), four, True)
            cute.arch.sync_warp()


class Plain(Epilogue):
    """Accumulators unchanged: float32 partial sums, or weighted float32 reductions into the token's row."""

    def weight_row(self, weight_tile: Int32, inside: Int32) -> Int32:
        """Weight row in the expert of a row of the tile; undoes the interleaving of up and gate."""
        p = self.plan
        if not p.paired:
            return weight_tile * p.tile_w + inside
        g = p.interleave
        pair, half, rest = inside // (2 * g), inside // g % 2, inside % g
        return weight_tile * p.columns + pair * g + rest + half * (p.n // 2)

    @cute.jit
    def store(
        self, acc, shared, operands: Operands, row0: Int32, weight_tile: Int32, part: Int32, done: Int32, left: Int32
    ):
        """Write [S, P, N] float32, or reduce into [T, N]."""
        p = self.plan
        warp, high, quad = self.place()
        atomic = p.out.startswith("atomic")
        for n in cutlass.range_constexpr(self.tokens(acc) // 4 if p.swap else 2 * p.token_subs):
            token = 8 * (n // 2) + 2 * quad + n % 2
            if cutlass.const_expr(not p.swap):
                token = p.cta_m * (n // 2) + 16 * warp + high + 8 * (n % 2)
            row = row0 + token
            weight = Float32(1.0)
            target_row = Int64(row)
            valid = cutlass.Boolean(True)
            if cutlass.const_expr(not p.swap):
                valid = left > p.cta_m * (n // 2)
            if cutlass.const_expr(atomic):
                index = operands.row_token[row]
                weight = operands.row_weight[row]
                valid = valid and index >= 0
                target_row = Int64(cutlass.max(index, 0))
            if cutlass.const_expr(p.out == "partial"):
                target_row = Int64(part) * operands.out.shape[1] + row
            base = target_row * p.n
            if valid:
                self.elements(acc, operands.out, base, weight, weight_tile, n, warp, high, quad)

    @cute.jit
    def elements(
        self, acc, out, base: Int64, weight: Float32, weight_tile: Int32, n: cutlass.Constexpr, warp, high, quad
    ):
        """The thread's elements of one token."""
        p = self.plan
        for s in cutlass.range_constexpr(p.weight_subs):
            for e in cutlass.range_constexpr(2 if p.swap else p.sub_w // 4):
                if cutlass.const_expr(p.swap):
                    i, inside = n % 2 + 4 * (n // 2) + 2 * e, p.sub_w * s + 16 * warp + high + 8 * e
                    a = s
                else:
                    i, inside = e % 2 + 2 * (n % 2) + 4 * (e // 2), p.sub_w * s + 8 * (e // 2) + 2 * quad + e % 2
                    a = n // 2 * p.weight_subs + s
                at = base + self.weight_row(weight_tile, inside)
                value = acc[a][i] * weight
                if cutlass.const_expr(p.out == "atomic_f32"):
                    cute.arch.red(out.iterator + at, value, op="add", dtype="f32", sem="relaxed", scope="gpu")
                else:
                    cute.make_tensor(out.iterator + at, cute.make_layout(1))[0] = value.to(out.element_type)


def make_epilogue(plan: GemmPlan) -> Epilogue:
    """The epilogue that a plan asks for."""
    if plan.out in ("finalize", "atomic_bf16"):
        return SwapRows(plan) if plan.swap else RowStore(plan)
    if plan.out != "act":
        return Plain(plan)
    return SwapAct(plan) if plan.swap else RowAct(plan)
