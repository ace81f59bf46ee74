"""How long one launch of a grouped GEMM takes, by what holds it up: of Hopper, and as a forecast of Blackwell.

A launch is waves of tiles. A wave takes as long as the slowest of: its bytes from device memory, its bytes through the
L2, the loads that one CTA can have in flight, and its K blocks in the SM. A K block takes as long as the slowest of
tensor core, shared memory port, promotion (and, on Blackwell, tensor memory), or the chain of one warpgroup that waits
for its own MMAs before it promotes them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from search_spaces.moe_fp8_cute.model_sm100 import between_cycles, stored_bytes, tile_cycles
from search_spaces.moe_fp8_cute.solution.budget import BLOCK, GemmPlan
from search_spaces.moe_fp8_cute.solution.budget_sm100 import BlackwellPlan
from search_spaces.prediction.model import Hardware, KernelPrediction

Rows = tuple[int, ...]
"""Rows of each local expert."""

WAIT_CYCLES = 30.0
"""From a full stage to its first MMA, and from the last MMA to its promotion: a barrier's latency (H100, 2026-11)."""
STEP_CYCLES = 300.0
"""A CTA with swapped operands takes so long for a K block at least, whatever its tile: barriers, token scales, four
MMAs that wait for each other. Seen in tiles of 64 weight rows at 1 and 15 tokens (docs/results/search-physics.md)."""
HELD_STAGES = 0.75
"""Stages of a ring that are not on their way with swapped operands: three times out of four a K block is given back
when the next one is there (the main loop of gemm_sm90.py)."""
STORE_CYCLES = 4.0
"""Hopper's epilogue for each element of a consumer thread: scale, convert, shared memory, store; counted in SASS."""
GATHER_CYCLES = 12.0
"""Of the gathering warps for a token row and K block. GEMM 1 took 642.7 us instead of 549.4 with 128 rows a tile (H200,
docs/kernels.md), and as long with 64."""
FIRST_ROWS_US, ROW_COPY_US = 4.0, 2.5
"""Where GEMM 1 permutes rows itself, every consumer warp copies one at a time until those of the first tiles are there:
4 us, as was expected of one row each, and for each further row of a warp what 128 of them take in 250 to 400 us (H200,
docs/kernels.md). With the traffic of it 13 at 2,048 tokens, where 11 to 15 were measured."""
EMPTY_US = 1.25
"""A launch none of whose experts have rows: two of them were measured to cost 2.2 to 2.8 us (H200, docs/kernels.md)."""
PROMOTION_CYCLES, DRAIN_CYCLES, SWAPPED_DRAIN_CYCLES = 70.0, 1.4, 2.3
"""A promotion warp on Blackwell for a K block, and for each of its accumulator registers: stall counts in SASS, 250 for
128 registers, with the weights as M 350 to 384, and 66 to 93 for 4 and 8 (docs/results/blackwell-promotion.md)."""


@dataclass(frozen=True)
class FittedConstants:
    """What no data sheet says about these kernels: fitted by ``benchmarks.search_physics`` on five sizes of two sweeps.

    Args:
        fma_cycles: Cycles of an SM for 128 multiply-adds of promotion, tokens as M: register moves included.
        swapped_fma_cycles: The same with swapped operands, where each element has a token's and a weight's factor.
        tile_cycles: Between two tiles of a Hopper CTA: the last K block's latency, maxima exchanged, the ring's refill.
        fill_us: From a launch to its first full stage, and its end.
        lag: How far the slowest CTA is behind the others at the end, in tiles.
        sharpness: How sharply the slowest resource decides: exponent of the norm over memory and SM.
        atomic: Bytes of device memory that adding one byte to the output costs.
        early: What GEMM 2 gains by streaming weights into its ring beside GEMM 1's tail, a part of the shorter of both.
        power: How far the clock falls to the sustained one when the tensor cores never idle.
        cluster: Slowdown of clusters of more than two CTAs, of which a Hopper GPC holds few.
        small_us: A kernel that only moves bytes, without its bytes.
        small_share: Part of the memory's rate that such a kernel reaches.
        clearing: Bytes of device memory that clearing one byte of the output costs beside GEMM 1.
    """

    fma_cycles: float = 2.1
    swapped_fma_cycles: float = 10.0
    tile_cycles: float = 1270.0
    fill_us: float = 0.25
    lag: float = 0.22
    sharpness: float = 3.4
    atomic: float = 5.1
    early: float = 0.44
    power: float = 0.8
    cluster: float = 0.095
    small_us: float = 0.61
    small_share: float = 0.46
    clearing: float = 1.5


@dataclass(frozen=True)
class Tiles:
    """The token tiles of a launch.

    Args:
        experts: Experts that have any.
        count: Token tiles (of whole clusters) of all of them.
        rows: Rows of these experts.
        multiplied: Rows that are multiplied, filling rows included.
    """

    experts: int
    count: int
    rows: int
    multiplied: int


@dataclass(frozen=True)
class Block:
    """One K block of one CTA's tile.

    Args:
        tensor, smem, fma, tmem: Cycles that it keeps a unit of the SM busy.
        chain: Cycles of the warpgroup that does it, one step after the other.
        issue: Cycles of the warps that gather its token rows.
        l2_bytes: Weights and token rows that come through the SM's port to the L2.
    """

    tensor: float
    smem: float
    fma: float
    tmem: float
    chain: float
    issue: float
    l2_bytes: float


@dataclass(frozen=True)
class Wave:
    """One tile in each of many CTAs.

    Args:
        block: A K block of it.
        between: Cycles between two tiles.
        latency_us: Of a tile's weights, as fast as the stages let a CTA ask for them.
        hbm_bytes: From and to device memory, over all tiles on average.
        l2_bytes: Through the SM's port to the L2.
        stored: Cycles that the epilogue keeps the shared memory port busy, where that is not in ``between``.
    """

    block: Block
    between: float
    latency_us: float
    hbm_bytes: float
    l2_bytes: float
    stored: float = 0.0


@lru_cache(maxsize=1 << 14)
def tiles_of(rows: Rows, above: int, upto: int, tile: int, step: int, narrow: int, together: int = 1) -> Tiles:
    """The tiles of the experts with more than ``above`` and at most ``upto`` rows (0: no bound).

    Args:
        rows: Rows of each expert.
        above: See there.
        upto: See there.
        tile: Token rows of a tile.
        step: Rows that are multiplied or left out together.
        narrow: A tile with at most so many rows is multiplied with as many; 0: none is.
        together: Tiles of a cluster; an expert has whole clusters, of which the last tiles may have no rows.
    """
    mine = [count for count in rows if count > above and (not upto or count <= upto)]
    multiplied = clusters = 0
    for count in mine:
        whole, rest = divmod(count, tile)
        multiplied += whole * tile
        if rest:
            multiplied += narrow if rest <= narrow else -(-rest // step) * step
        here = -(-count // (tile * together))
        multiplied += (here * together - -(-count // tile)) * (narrow or tile)
        clusters += here
    return Tiles(len(mine), clusters, sum(mine), multiplied)


@lru_cache(maxsize=1 << 14)
def gemm(
    name: str, plan: GemmPlan, rows: Rows, hw: Hardware, k: FittedConstants, cleared_bytes: float
) -> KernelPrediction:
    """One launch, alone.

    Args:
        name: Of the kernel.
        plan: Its plan.
        rows: Rows of each local expert.
        hw: The GPU.
        k: FittedConstants.
        cleared_bytes: Output that it clears meanwhile.
    """
    if not serves(plan, rows):
        return KernelPrediction(name, EMPTY_US, {"launch": EMPTY_US})
    t = _token_tiles(plan, rows)
    tiles, ctas = _tiles(plan, t), _ctas(plan, hw)
    w = _wave(plan, t, tiles, hw, k)
    full, last = divmod(tiles, ctas)
    tensor_us = tiles * plan.k_blocks * w.block.tensor / hw.sms / hw.boost_mhz
    clock = hw.boost_mhz
    for _ in range(2):
        whole_wave = _wave_us(plan, w, min(tiles, ctas), clock, hw, k)
        us = full * whole_wave + (_wave_us(plan, w, last, clock, hw, k) if last else 0.0)
        us += k.lag * whole_wave
        # A busy tensor core draws the power that the clock needs.
        clock = hw.boost_mhz - (hw.boost_mhz - hw.sustained_mhz) * min(1.0, k.power * tensor_us / us)
    if plan.cluster > 2 and not isinstance(plan, BlackwellPlan):
        us *= 1 + k.cluster
    us += k.fill_us + k.clearing * cleared_bytes / hw.hbm_bytes_per_us
    losses = {
        "tail": us - k.fill_us - tiles / ctas * whole_wave,
        "filling rows": (1 - t.rows / t.multiplied) * tensor_us * hw.boost_mhz / clock,
        "launch": k.fill_us,
    }
    return KernelPrediction(name, us, _resources(plan, w, tiles, ctas, clock, hw), losses)


def _token_tiles(plan: GemmPlan, rows: Rows) -> Tiles:
    tile = plan.tile_t
    if plan.narrow_tiles and tiles_of(rows, 0, plan.upto, plan.narrow, plan.narrow, 0).count <= plan.narrow_tiles:
        tile = plan.narrow
    tokens_as_m = not plan.swap and not isinstance(plan, BlackwellPlan)
    return tiles_of(rows, plan.above, plan.upto, tile, 64 if tokens_as_m else tile, plan.narrow, plan.cluster_t)


def _tiles(plan: GemmPlan, t: Tiles) -> int:
    return t.count * plan.cluster_t * plan.weight_tiles * plan.split_k


def _ctas(plan: GemmPlan, hw: Hardware) -> int:
    return min(plan.ctas, hw.sms * plan.ctas_per_sm)


def finished(plan: GemmPlan, rows: Rows, hw: Hardware) -> float:
    """Part of a launch's tiles that end before its last wave begins to end; 0 where it has one wave."""
    tiles, ctas = _tiles(plan, _token_tiles(plan, rows)), _ctas(plan, hw)
    return (tiles - 1) // ctas * ctas / tiles


def first_rows_us(plan: GemmPlan, rows: Rows, hw: Hardware) -> float:
    """Until the rows of the first tiles are there that a launch permutes itself (row_copy.py)."""
    ctas = _ctas(plan, hw)
    copied = min(_token_tiles(plan, rows).rows, ctas * plan.tile_t)
    rounds = math.ceil(copied / (ctas * 4 * plan.groups))
    return FIRST_ROWS_US + (rounds - 1) * ROW_COPY_US


def serves(plan: GemmPlan, rows: Rows) -> bool:
    """Whether a launch has tiles: its experts have rows, and no other launch of many rows serves them."""
    if not any(count > plan.above and (not plan.upto or count <= plan.upto) for count in rows):
        return False
    if not plan.above or not plan.small_tiles:
        return True
    few = tiles_of(rows, plan.above, 0, plan.small_rows, plan.small_rows, 0).count <= plan.small_tiles
    return few == plan.small


def _resources(plan: GemmPlan, w: Wave, tiles: int, ctas: int, clock: float, hw: Hardware) -> dict[str, float]:
    """Microseconds of each resource, were it alone."""
    blocks_us, b = tiles * plan.k_blocks / clock, w.block
    out = {
        "hbm": tiles * w.hbm_bytes / hw.hbm_bytes_per_us,
        "l2": tiles * w.l2_bytes / hw.l2_bytes_per_us,
        "loads in flight": tiles / ctas * w.latency_us,
        "shared memory": (blocks_us * b.smem + tiles * w.stored / clock) / hw.sms,
        "tensor core": blocks_us * b.tensor / hw.sms,
        "promotion": blocks_us * b.fma / hw.sms,
        "dependent steps": (blocks_us * b.chain + tiles * w.between / clock) / ctas,
    }
    others = {"tensor memory": blocks_us * b.tmem / hw.sms, "issue": blocks_us * b.issue / ctas}
    return {**out, **{name: us for name, us in others.items() if us}}


def _wave(plan: GemmPlan, t: Tiles, tiles: int, hw: Hardware, k: FittedConstants) -> Wave:
    rows = t.multiplied / (t.count * plan.cluster_t)
    block = blackwell_block(plan, rows, hw) if isinstance(plan, BlackwellPlan) else _hopper(plan, rows, hw, k)
    block = replace(block, issue=_issue(plan, t.rows / (t.count * plan.cluster_t)))
    # Filling rows are stored too, but not added.
    out = {
        "act": t.multiplied * plan.n // 2,
        "partial": t.multiplied * plan.n * 4 * plan.split_k,
        "finalize": t.multiplied * plan.n * 2,
        "atomic_bf16": t.rows * plan.n * 2 * k.atomic,
        "atomic_f32": t.rows * plan.n * 4 * plan.split_k * k.atomic,
    }[plan.out]
    # Rows that it permutes itself are read and written before.
    hbm = t.experts * plan.n * plan.k + t.rows * plan.k * (3 if plan.copies else 1) + out
    between, stored = k.tile_cycles + STORE_CYCLES * rows * plan.tile_w / (128 * plan.groups), 0.0
    if isinstance(plan, BlackwellPlan):
        between, stored = between_cycles(plan, rows), stored_bytes(plan, rows) / hw.smem_bytes_per_cycle
    return Wave(
        block=block,
        between=between,
        latency_us=plan.k_blocks / _ahead(plan) * hw.load_latency_us,
        hbm_bytes=hbm / tiles,
        l2_bytes=plan.k_blocks * block.l2_bytes + out / tiles,
        stored=stored,
    )


def _ahead(plan: GemmPlan) -> float:
    """K blocks that a CTA can have on their way."""
    if isinstance(plan, BlackwellPlan):
        return plan.stages * plan.k_per_stage
    return plan.stages - (HELD_STAGES if plan.overlap else 0.0)


def ring_us(plan: GemmPlan, hw: Hardware) -> float:
    """Until device memory has filled the rings of all CTAs with weights."""
    rows = plan.weight_rows if isinstance(plan, BlackwellPlan) else plan.tile_w
    return plan.ctas * _ahead(plan) * rows * BLOCK / hw.hbm_bytes_per_us


def _hopper(plan: GemmPlan, rows: float, hw: Hardware, k: FittedConstants) -> Block:
    """``rows``: token rows of a tile that are multiplied, on average."""
    weights = plan.tile_w
    tensor = rows * weights * BLOCK * 2 / hw.tensor_flop_per_cycle
    fma = rows * weights / hw.fma_per_cycle * (k.swapped_fma_cycles if plan.swap else k.fma_cycles)
    stored = (weights + plan.tile_t) * BLOCK
    # An MMA reads both operands from shared memory, and 64 rows of its M side at a time.
    if plan.swap:
        read = (weights + weights / 64 * rows) * BLOCK
        chain = max(STEP_CYCLES, WAIT_CYCLES + max(tensor, read / hw.smem_bytes_per_cycle, fma))
        token_bytes = rows * BLOCK
    else:
        read = (rows * plan.weight_subs + rows / 64 * weights) * BLOCK
        one = 64 * plan.sub_w
        steps = one * 2 * BLOCK / hw.tensor_flop_per_cycle + one / 128 * k.fma_cycles + WAIT_CYCLES / 2
        accumulators = plan.weight_subs * max(1.0, plan.token_subs * rows / plan.tile_t)
        chain = WAIT_CYCLES + accumulators * steps
        token_bytes = plan.tile_t * BLOCK
    l2 = weights * BLOCK / (2 if plan.multicast == "weights" else 1)
    l2 += token_bytes / (2 if plan.multicast == "tokens" else 1)
    return Block(tensor, (stored + read) / hw.smem_bytes_per_cycle, fma, 0.0, chain, 0.0, l2)


def blackwell_block(plan: BlackwellPlan, rows: float, hw: Hardware) -> Block:
    """``rows``: token rows of a tile that are multiplied, on average."""
    weights = plan.tile_w
    elements = rows * weights
    # A pair's MMA reads half of the N side from each CTA. What several CTAs need comes once, by multicast.
    stored = plan.weight_rows + plan.token_rows
    read = weights + rows / plan.token_halves * plan.mmas if plan.swap else stored
    registers = elements / (128 * plan.groups)
    chain = (
        PROMOTION_CYCLES
        + registers * (SWAPPED_DRAIN_CYCLES if plan.swap else DRAIN_CYCLES)
        + registers / max(1, plan.load_columns // 2) * hw.tmem_load_cycles
    )
    tensor = elements * BLOCK * 2 / hw.tensor_flop_per_cycle
    if plan.groups == 1:
        tensor *= 2  # an MMA of 64 rows takes as long as one of 128: half of the lanes of tensor memory are written
    smem = (stored + read) * BLOCK / hw.smem_bytes_per_cycle
    tmem, fma = elements * 4 / hw.tmem_bytes_per_cycle, elements / hw.fma_per_cycle * (2.0 if plan.swap else 1.0)
    if plan.scaled:
        # Nothing is promoted; scales are read, and their factors written and read again.
        smem += (4 * plan.tile_t + 2 * plan.factor_bytes / plan.k_per_stage) / hw.smem_bytes_per_cycle
        chain, fma, tmem = 0.0, 0.0, tmem / plan.k_blocks
    elif plan.acc_stages == 1:
        chain += max(tensor, smem)  # the next K block's MMAs wait until this one's sums are out of tensor memory
    return Block(
        tensor=tensor,
        smem=smem,
        fma=fma,
        tmem=tmem,
        chain=chain,
        issue=0.0,
        l2_bytes=BLOCK * (plan.weight_rows / len(plan.weight_peers(0)) + plan.token_rows / len(plan.token_peers(0))),
    )


def _issue(plan: GemmPlan, rows: float) -> float:
    """Cycles in which the gathering warps copy a K block's token rows one by one; filling rows cost next to nothing."""
    by_tma = isinstance(plan, BlackwellPlan) and plan.gather4
    return GATHER_CYCLES * rows * (64 / plan.gather_threads) if plan.gather and not by_tma else 0.0


def _wave_us(plan: GemmPlan, w: Wave, ctas: int, clock: float, hw: Hardware, k: FittedConstants) -> float:
    """Microseconds of one tile in each of ``ctas`` CTAs side by side."""
    together = min(plan.ctas_per_sm, math.ceil(ctas / hw.sms))
    cycles = _tile_cycles(plan, w, together, hw)
    return _norm(
        k.sharpness,
        ctas * w.hbm_bytes / hw.hbm_bytes_per_us,
        together * w.l2_bytes * hw.sms / hw.l2_bytes_per_us,
        w.latency_us,
        cycles / clock,
    )


def _tile_cycles(plan: GemmPlan, w: Wave, together: int, hw: Hardware) -> float:
    """From the end of a tile to that of the next, of ``together`` CTAs of an SM; loads aside."""
    b = w.block
    if not isinstance(plan, BlackwellPlan):
        return plan.k_blocks * max(b.chain, b.issue, together * max(b.tensor, b.smem, b.fma)) + w.between
    mma, promotion = together * max(b.tensor, b.smem), max(b.chain, together * max(b.fma, b.tmem))
    port = together * (plan.k_blocks * b.smem + w.stored)
    read = plan.k_blocks * b.tmem + hw.tmem_load_cycles + 2 * WAIT_CYCLES
    return max(plan.k_blocks * b.issue, tile_cycles(plan, mma, promotion, w.between, port, read))


def _norm(exponent: float, *us: float) -> float:
    top = max(us)
    return float(top * sum((u / top) ** exponent for u in us) ** (1 / exponent))
