"""Which tile comes next: a table of token tiles per expert held in the registers of a warp.

Lane ``l`` of every warp holds the experts ``l, l + 32, ...``: the inclusive sum of their token tiles. A tile index is
turned into (expert, token tile, weight tile, K part) with ballots, no memory and no divergence; empty experts fall
out. The order is the same in every warp, so producers and consumers agree without talking.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64

from .budget import UNBOUNDED, GemmPlan


@cute.jit
def most_rows(counts: cute.Tensor, experts: cutlass.Constexpr[int]) -> Int32:
    """Rows of the busiest of ``experts`` experts; the same in all lanes of the calling warp."""
    most = Int32(0)
    for c in cutlass.range_constexpr((experts + 31) // 32):
        expert = cute.arch.lane_idx() + 32 * c
        if expert < experts:
            most = cutlass.max(most, counts[expert])
    return cute.arch.warp_redux_sync(most, "max")


@cute.jit
def rows_above(counts: cute.Tensor, experts: cutlass.Constexpr[int], bound: cutlass.Constexpr[int]) -> Int32:
    """Rows of all experts with more than ``bound``, together; the same in all lanes of the calling warp."""
    rows = Int32(0)
    for c in cutlass.range_constexpr((experts + 31) // 32):
        expert = cute.arch.lane_idx() + 32 * c
        if expert < experts:
            count = counts[expert]
            rows = rows + (count if count > bound else 0)
    return cute.arch.warp_redux_sync(rows, "add")


def is_crowded(counts: cute.Tensor, experts: int, crowded: int, total: int) -> cutlass.Boolean:
    """Whether a call's experts are divided by their rows: ``GemmPlan.crowded`` and ``crowded_total`` say when."""
    return rows_above(counts, experts, crowded) > total if total else most_rows(counts, experts) > crowded


class TileTable:
    """Tiles of one grouped GEMM, in the order in which persistent CTAs take them.

    Tile index ``t``: K part fastest, then weight tile and token tile as ``plan.order`` says, then expert. Clusters take
    ``plan.cluster_w`` neighbouring weight tiles and ``plan.cluster_t`` token tiles of one expert, so the index counts
    groups of both. Where two CTAs share weights (``plan.multicast``), :meth:`place` pairs token tiles instead.

    ``mixed`` order: experts with a single token tile only wait for their weights, those with several wait for the
    tensor cores. The tiles of the former are spread evenly among those of the latter, so that memory and tensor cores
    are busy at the same time. The table then has two halves, of the experts with several token tiles and of the others.

    Where launches share the experts by their rows (``plan.above``, ``plan.upto``, ``plan.small``), those of the others
    have no tiles here. The bound between few and many rows is one for all experts of a call (:meth:`bound`).
    """

    def __init__(self, plan: GemmPlan):
        self.plan = plan
        self.is_mixed = plan.order == "mixed"
        self.half = (plan.experts + 31) // 32
        self.chunks = self.half * (2 if self.is_mixed else 1)
        self.groups = plan.weight_tiles // plan.cluster_w
        self.rows = plan.tile_t * plan.cluster_t
        self.per_token_tile = self.groups * plan.split_k

    @cute.jit
    def enter(self, counts: cute.Tensor) -> cutlass.Boolean:
        """End this CTA if the launch has no tiles; else whether it must wait although it is chained.

        A launch without tiles makes room at once and lets the next one start. Its first CTA alone stays until the
        kernels before have ended, so that whoever waits for this launch has waited for those too. Where the first
        launch of GEMM 2 did so, nobody has waited for what the second one reads.
        """
        p = self.plan
        alone = cutlass.Boolean(False)
        if cutlass.const_expr(p.leaves):
            forms = self.forms(counts)
            # Who serves few rows also clears the output where nobody has any.
            if (forms & p.form) == 0 and forms != 0:
                if cutlass.const_expr(p.pdl):
                    if cute.arch.block_idx()[0] == 0:
                        cute.arch.griddepcontrol_launch_dependents()
                        cute.arch.griddepcontrol_wait()
                cute.arch.inline_ptx("exit;")
            if cutlass.const_expr(p.pdl and p.chained and not p.paired):
                alone = (forms & 1) == 0
        return alone

    def bound(self, counts: cute.Tensor) -> int | Int32:
        """The most rows of an expert that the launches for few rows serve; the same in all lanes."""
        p = self.plan
        return self.bound_of_call(counts) if p.crowded else p.above + p.upto

    @cute.jit
    def bound_of_call(self, counts: cute.Tensor) -> Int32:
        """The bound where it depends on the call: nobody is above the larger one."""
        p = self.plan
        larger = UNBOUNDED if p.crowded_total else p.crowded
        crowded = is_crowded(counts, p.experts, p.crowded, p.crowded_total)
        return Int32(p.above + p.upto) if crowded else Int32(larger)

    @cute.jit
    def forms(self, counts: cute.Tensor) -> Int32:
        """Bits of the launches that have tiles, as ``plan.form`` says; the same in all lanes."""
        p = self.plan
        bound = self.bound(counts)
        few, tiles = cutlass.Boolean(False), Int32(0)
        height = p.small_rows if p.small_tiles else 1
        for c in cutlass.range_constexpr(self.half):
            expert = cute.arch.lane_idx() + 32 * c
            if expert < p.experts:
                count = counts[expert]
                few = few or (count > 0 and count <= bound)
                tiles = tiles + ((count + (height - 1)) // height if count > bound else 0)
        tiles = cute.arch.warp_redux_sync(tiles, "add")
        found = Int32(1) if cute.arch.vote_ballot_sync(few) != 0 else Int32(0)
        if tiles > 0:
            found = found + (4 if tiles <= p.small_tiles else 2)
        return found

    @cute.jit
    def height(self, counts: cute.Tensor) -> Int32:
        """Token rows of a tile: those of the plan, or the narrow ones where these are few."""
        p = self.plan
        height = Int32(p.tile_t)
        if cutlass.const_expr(p.narrow_tiles > 0):
            tiles = Int32(0)
            bound = self.bound(counts)
            for c in cutlass.range_constexpr(self.half):
                expert = cute.arch.lane_idx() + 32 * c
                if expert < p.experts:
                    count = counts[expert]
                    count = count if p.upto == 0 or count <= bound else 0
                    tiles = tiles + (count + (p.narrow - 1)) // p.narrow
            tiles = cute.arch.warp_redux_sync(tiles, "add")
            height = Int32(p.narrow) if tiles <= p.narrow_tiles else height
        return height

    @cute.jit
    def load(self, counts: cute.Tensor, cum: cute.Tensor) -> Int32:
        """Fill ``cum`` ([chunks] int32 registers) from counts [E]; returns the number of token tiles."""
        lane = cute.arch.lane_idx()
        total, base = Int32(0), Int32(0)
        rows = Int32(self.rows)
        if cutlass.const_expr(self.plan.narrow_tiles > 0):
            rows = self.height(counts)
        bound = self.bound(counts)
        served = cutlass.Boolean(True)
        if cutlass.const_expr(self.plan.small_tiles > 0):
            served = (self.forms(counts) & self.plan.form) != 0
        for c in cutlass.range_constexpr(self.chunks):
            expert = lane + 32 * (c % self.half)
            tiles = Int32(0)
            if expert < self.plan.experts:
                count = counts[expert]
                if cutlass.const_expr(self.plan.above > 0):
                    count = count if count > bound else 0
                if cutlass.const_expr(self.plan.upto > 0):
                    count = count if count <= bound else 0
                if cutlass.const_expr(self.plan.small_tiles > 0):
                    count = count if served else 0
                if cutlass.const_expr(self.plan.narrow_tiles > 0):
                    tiles = (count + (rows - 1)) // rows
                else:
                    tiles = (count + (self.rows - 1)) // self.rows
            if cutlass.const_expr(self.is_mixed):
                wanted = tiles == 1 if cutlass.const_expr(c >= self.half) else tiles > 1
                tiles = tiles if wanted else 0
            if cutlass.const_expr(c == self.half):
                total, base = base, Int32(0)
            for step in (1, 2, 4, 8, 16):
                below = cute.arch.shuffle_sync_up(tiles, offset=step, mask_and_clamp=0)
                if lane >= step:
                    tiles = tiles + below
            cum[c] = tiles + base
            base = cute.arch.shuffle_sync(cum[c], offset=31)
        return total + base

    @cute.jit
    def find(self, cum: cute.Tensor, tile: Int32) -> tuple[Int32, Int32, Int32, Int32]:
        """(expert, group of token tiles inside it, group of weight tiles, K part) of a tile index inside the table."""
        return self.locate(cum, tile)[:4]

    @cute.jit
    def place(self, cum: cute.Tensor, tile: Int32, rank: Int32) -> tuple:
        """(expert, token tile, weight tile, K part, whether the weight tile is shared) of the CTA at ``rank``.

        A cluster that shares weights takes ``n`` steps for ``n`` token tiles and two weight tiles in any case: two for
        a pair of token tiles, one weight tile each, and one for the last token tile of an odd ``n``, where each CTA
        has a weight tile of its own.
        """
        expert, token_tile, group, part, tiles = self.locate(cum, tile)
        weight_tile, together = group * self.plan.cluster_w + rank, cutlass.Boolean(False)
        if cutlass.const_expr(self.plan.multicast == "weights"):
            together = (token_tile | 1) < tiles
            if together:
                weight_tile = 2 * group + (token_tile & 1)
                token_tile = (token_tile & ~1) + rank
        return expert, token_tile, weight_tile, part, together

    @cute.jit
    def locate(self, cum: cute.Tensor, tile: Int32) -> tuple[Int32, Int32, Int32, Int32, Int32]:
        """What :meth:`find` gives, and the number of token tiles of the expert where order or sharing want it."""
        table = cute.make_rmem_tensor((self.half,), Int32)
        for c in cutlass.range_constexpr(self.half):
            table[c] = cum[c]
        if cutlass.const_expr(self.is_mixed):
            tile, alone = self.interleave(cum, tile)
            for c in cutlass.range_constexpr(self.half):
                table[c] = cum[self.half + c] if alone else cum[c]
        expert = Int32(0)
        before = Int32(0)
        for c in cutlass.range_constexpr(self.half):
            passed = table[c] * self.per_token_tile <= tile
            expert = expert + cute.arch.popc(cute.arch.vote_ballot_sync(passed))
            before = cutlass.max(before, table[c] if passed else 0)
        before = cute.arch.warp_redux_sync(before, "max")
        rest = tile - before * self.per_token_tile
        part = rest % self.plan.split_k
        rest = rest // self.plan.split_k
        tiles = Int32(0)
        if cutlass.const_expr(self.plan.order != "weights" or self.plan.multicast == "weights"):
            tiles = self.upto(table, expert) - before
        if cutlass.const_expr(self.plan.order == "weights"):
            token_tile = rest // self.groups
            group = rest - token_tile * self.groups
        else:
            group = rest // tiles
            token_tile = rest - group * tiles
        return expert, token_tile, group, part, tiles

    @cute.jit
    def interleave(self, cum: cute.Tensor, tile: Int32) -> tuple[Int32, cutlass.Boolean]:
        """(index among its kind, whether its expert has a single token tile) of a tile index, in ``mixed`` order."""
        many = self.per_token_tile * cute.arch.shuffle_sync(cum[self.half - 1], offset=31)
        single = self.per_token_tile * cute.arch.shuffle_sync(cum[self.chunks - 1], offset=31)
        total = Int64(cutlass.max(many + single, 1))
        before = Int32(Int64(tile) * single // total)
        alone = Int32(Int64(tile + 1) * single // total) > before
        return (before if alone else tile - before), alone

    @cute.jit
    def upto(self, table: cute.Tensor, expert: Int32) -> Int32:
        """Token tiles of the experts of a table up to and including ``expert``."""
        value = Int32(0)
        for c in cutlass.range_constexpr(self.half):
            mine = cute.arch.shuffle_sync(table[c], offset=expert & 31)
            value = mine if expert // 32 == c else value
        return value
