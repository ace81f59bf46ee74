"""GEMM 2 beside the last tiles of GEMM 1: finished token tiles are counted, and tiles are taken from a queue."""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64

from .budget import GemmPlan
from .operands import Operands
from .workspace import SMALLEST_ROWS

NEXT, CLEARED, FINISHED = 0, 32, 64
"""Places in the counters (workspace.queue_ints), 128 bytes apart: tiles of GEMM 2 that are claimed, those of its second
launch behind it; CTAs that have cleared their part of the output; and from here on the CTA tiles of each token tile
that GEMM 1 has finished, at the tile's first row in steps of ``SMALLEST_ROWS``."""


class Feed:
    """What GEMM 1 tells GEMM 2 through memory, and how a cluster of GEMM 2 gets its tiles from a queue.

    GEMM 1: every consumer thread arrives on the first barrier behind a tile's stores, and an idle warp counts the tile
    for all of them, since a release at the scope of the GPU takes about 1 us. By the second barrier it lets them go on
    to the next tile's arrival. The weight warp counts its CTA once that has cleared its part of the output.

    GEMM 2 does not wait for the grid before it: the row warp waits until a tile's rows are counted in full, consumers
    until all of the output is cleared. A cluster's first tile is the one of its place in the grid. The idle warp of its
    first CTA claims the others by an atomic counter, one ahead, and writes each into the shared memory of all its CTAs:
    the first barrier tells that it is there, the second one (of the first CTA) that everybody has read it. A cluster
    that starts early, on SMs that GEMM 1 has left, takes more tiles.

    Nobody waits for a CTA that has not started: GEMM 2 is launched when every CTA of GEMM 1 has let it
    (griddepcontrol), so all of these are resident, and wait for nothing of GEMM 2. Counters are zeroed by the routing
    kernel, which GEMM 1 has waited for.
    """

    def __init__(self, plan: GemmPlan):
        self.plan = plan

    def allocate(self, smem) -> tuple:
        """Two barriers, and the tile that was claimed last."""
        return smem.allocate_array(Int64, 2), smem.allocate_tensor(Int32, cute.make_layout(4), byte_alignment=16)

    def init_barriers(self, shared) -> None:
        """Called by one thread. A tile is read by consumers, weight warp, row warp and the warp that claims."""
        p = self.plan
        consumers = 128 * p.groups
        first, second = (1, (consumers + 96) * p.cluster) if p.fed else (consumers, 32)
        cute.arch.mbarrier_init(shared[0], first)
        cute.arch.mbarrier_init(shared[0] + 1, second)

    # GEMM 1.

    @cute.jit
    def stored(self, shared, done: Int32):
        """This consumer thread has stored its part of the CTA's tile number ``done``."""
        # Ordinary stores, read by TMA elsewhere.
        cute.arch.fence_proxy("async.global")
        cute.arch.mbarrier_wait(shared[0] + 1, (done & 1) ^ 1)
        cute.arch.mbarrier_arrive(shared[0])

    @cute.jit
    def count(self, shared, operands: Operands, row0: Int32, done: Int32):
        """Count a tile once all consumers have stored it; a warp does."""
        cute.arch.mbarrier_wait(shared[0], done & 1)
        cute.arch.mbarrier_arrive(shared[0] + 1)
        self.add(self.finished(operands.queue, row0))

    @cute.jit
    def cleared(self, operands: Operands):
        """Count this CTA: the calling warp has cleared its part of the output."""
        cute.arch.sync_warp()
        self.add(operands.queue.iterator + CLEARED)

    @cute.jit
    def add(self, counter: cute.Pointer):
        """One more, behind everything that this warp has seen."""
        if cute.arch.lane_idx() == 0:
            cute.arch.red(counter, Int32(1), op="add", dtype="s32", sem="release", scope="gpu")

    def finished(self, queue: cute.Tensor, row: Int32) -> cute.Pointer:
        """Where the weight tiles that GEMM 1 has finished of the token tile that begins at ``row`` are counted."""
        return queue.iterator + (FINISHED + row // SMALLEST_ROWS)

    # GEMM 2.

    @cute.jit
    def wait_rows(self, operands: Operands, row0: Int32):
        """Wait until GEMM 1 has stored all columns of a tile's rows; TMA may read them then."""
        self.reach(self.finished(operands.queue, row0), Int32(self.plan.finished_tiles))
        cute.arch.fence_proxy("async.global")

    @cute.jit
    def wait_cleared(self, operands: Operands):
        """Wait until the output may be added to."""
        if cutlass.const_expr(self.plan.out == "atomic_bf16"):
            self.reach(operands.queue.iterator + CLEARED, Int32(self.plan.clearing_ctas))

    @cute.jit
    def reach(self, counter: cute.Pointer, wanted: Int32):
        """Wait for a counter."""
        there = cute.arch.load(counter, Int32, sem="acquire", scope="gpu")
        while there < wanted:
            there = cute.arch.load(counter, Int32, sem="acquire", scope="gpu")

    @cute.jit
    def claim(self, shared, operands: Operands, done: Int32):
        """Claim the tile after number ``done`` for this cluster; a warp of its first CTA does."""
        p = self.plan
        bars, place = shared
        tile = Int32(0)
        if cute.arch.lane_idx() == 0:
            pointer = operands.queue.iterator + (NEXT + (1 if cutlass.const_expr(p.above > 0) else 0))
            tile = cute.arch.atomic_add(pointer, Int32(1), sem="relaxed", scope="gpu") + p.ctas // p.cluster
        cute.arch.mbarrier_wait(bars + 1, (done & 1) ^ 1)
        if cute.arch.lane_idx() == 0:
            if cutlass.const_expr(p.cluster == 1):
                # Stores to a cluster's shared memory are illegal instructions in a launch without clusters.
                place[0] = tile
                cute.arch.mbarrier_arrive(bars)
            else:
                for peer in cutlass.range_constexpr(p.cluster):
                    cute.arch.mbarrier_arrive_and_expect_tx(bars, 4, Int32(peer))
                    cute.arch.store_async_dsmem(place.iterator, tile, bars, Int32(peer))

    @cute.jit
    def next(self, shared, done: Int32) -> Int32:
        """The tile after this thread's tile number ``done``."""
        bars, place = shared
        cute.arch.mbarrier_wait(bars, done & 1)
        tile = place[0]
        if cutlass.const_expr(self.plan.cluster == 1):
            cute.arch.mbarrier_arrive(bars + 1)
        else:
            # A remote arrival can overtake the load, which waits behind an epilogue's reductions; then the next claim
            # is read in place of this one. A release at the cluster's scope would wait for the reductions themselves.
            # A tile is never negative: the address is the same, and there only once the load has ended.
            cute.arch.mbarrier_arrive(bars + 1 + Int32(tile < 0), Int32(0))
        return tile
