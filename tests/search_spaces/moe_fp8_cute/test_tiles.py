"""The scheduler's own arithmetic on many expert counts: the compiler's PTX of the tile table, run in bulk.

Every role of every GEMM asks this table; that the roles then walk it alike is tested in test_emulated.py.
"""

from __future__ import annotations

import dataclasses
import tempfile

import numpy as np
import pytest

pytest.importorskip("cutlass", reason="nvidia-cutlass-dsl is not installed")

import cutlass.cute as cute
from cutlass import Int32
from cutlass.cute.runtime import make_fake_compact_tensor, make_fake_stream

from search_spaces.moe_fp8_cute.solution.budget import GemmPlan
from search_spaces.moe_fp8_cute.solution.budget_sm100 import BlackwellPlan
from search_spaces.moe_fp8_cute.solution.sched import TileTable
from workers.emulator.machine import CtaCluster, Launch
from workers.emulator.memory import GlobalMemory, Region
from workers.emulator.program import Program
from workers.emulator.ptx import read

COUNTS, OUT = 1 << 40, 1 << 41
RESULTS = 6
PLAN = GemmPlan(
    role="down", experts=32, n=1024, k=512, swap=True, tile_t=16, tile_w=128, groups=2, stages=4, out="atomic_f32"
)
BLACKWELL = {f.name: getattr(PLAN, f.name) for f in dataclasses.fields(PLAN)}
PLANS = {
    "32 experts, weights first": dataclasses.replace(PLAN, order="weights"),
    "32 experts, tokens first, parts of K": dataclasses.replace(PLAN, order="tokens", split_k=4),
    "5 experts, clusters along the weights": dataclasses.replace(PLAN, experts=5, multicast="tokens", order="tokens"),
    "48 experts, weights first, parts of K": dataclasses.replace(PLAN, experts=48, order="weights", split_k=2),
    "384 experts, tokens first": dataclasses.replace(PLAN, experts=384, n=256, order="tokens"),
    "pairs of token tiles share weights": dataclasses.replace(
        PLAN, swap=False, tile_t=64, groups=1, multicast="weights", out="finalize"
    ),
    "32 experts, mixed, parts of K": dataclasses.replace(PLAN, order="mixed", split_k=2),
    "384 experts, mixed": dataclasses.replace(PLAN, experts=384, n=256, order="mixed"),
    "pairs of token tiles share weights, mixed": dataclasses.replace(
        PLAN, swap=False, tile_t=64, groups=1, multicast="weights", order="mixed", out="finalize"
    ),
    "32 experts, those of few rows": dataclasses.replace(PLAN, upto=16),
    "48 experts, those of many rows, mixed": dataclasses.replace(PLAN, experts=48, above=16, order="mixed"),
    "32 experts, many rows in many tiles": dataclasses.replace(
        PLAN, swap=False, tile_t=128, above=16, small_rows=64, small_tiles=4, order="tokens", out="finalize"
    ),
    "32 experts, many rows in few tiles": dataclasses.replace(
        PLAN, swap=False, tile_t=64, groups=1, above=16, small_rows=64, small_tiles=4, small=True, out="finalize"
    ),
    "48 experts, narrow tiles where they are few": dataclasses.replace(
        PLAN, experts=48, upto=40, narrow=8, narrow_tiles=4, order="tokens"
    ),
    # The bound of a call: tiles of 16 rows are drawn to be full, and one row longer.
    "32 experts, few rows, all where nobody is busy": dataclasses.replace(PLAN, upto=1, crowded=16),
    "48 experts, many rows where somebody is busy, mixed": dataclasses.replace(
        PLAN, experts=48, above=1, crowded=16, order="mixed"
    ),
    "32 experts, all where nobody is busy, narrow tiles where they are few": dataclasses.replace(
        PLAN, upto=15, crowded=17, narrow=8, narrow_tiles=4, order="tokens"
    ),
    # Two experts with 31 and 17 rows are always drawn: 17 do not count here, or all 48 would be above the total, ...
    "32 experts, few rows, all where those that are busy have few": dataclasses.replace(
        PLAN, upto=1, crowded=17, crowded_total=47
    ),
    # ... and here both do, and are at the total.
    "48 experts, many rows where those that are busy have many": dataclasses.replace(
        PLAN, experts=48, above=1, crowded=16, crowded_total=48, order="mixed"
    ),
    "32 experts, many rows where somebody is busy, in few tiles": dataclasses.replace(
        PLAN, swap=False, tile_t=64, groups=1, above=64, crowded=65, small_rows=64, small_tiles=4, small=True, out="act"
    ),
    "Blackwell, 2 x 2 clusters": BlackwellPlan(**{**BLACKWELL, "cluster_w": 2, "cluster_t": 2, "order": "tokens"}),
}


class Probe:
    """Writes what a warp of the CTA at (tile, rank) finds: total, expert, token tile, weight tile, part, together."""

    def __init__(self, plan: GemmPlan):
        self.table = TileTable(plan)

    @cute.jit
    def __call__(self, counts, out, stream):
        self.kernel(counts, out).launch(grid=(1, 1, 1), block=(32, 1, 1), stream=stream)

    @cute.kernel
    def kernel(self, counts, out):
        cum = cute.make_rmem_tensor((self.table.chunks,), Int32)
        total = self.table.load(counts, cum) * self.table.per_token_tile
        tile, rank, _ = cute.arch.block_idx()
        expert, token_tile, weight_tile, part, together = self.table.place(cum, tile, rank)
        if cute.arch.lane_idx() == 0:
            out[0] = total
            out[1] = expert
            out[2] = token_tile
            out[3] = weight_tile
            out[4] = part
            out[5] = Int32(together)


@pytest.fixture(scope="module", params=PLANS)
def table(request) -> tuple[GemmPlan, Program]:
    """A plan and the compiled probe of its table."""
    plan = PLANS[request.param]
    counts = make_fake_compact_tensor(Int32, (plan.experts,), assumed_align=4)
    out = make_fake_compact_tensor(Int32, (RESULTS,), assumed_align=4)
    stream = make_fake_stream(use_tvm_ffi_env_stream=True)
    with tempfile.TemporaryDirectory() as folder:
        options = f"--enable-tvm-ffi --gpu-arch sm_90a --keep-ptx --dump-dir {folder}"
        text = cute.compile(Probe(plan), counts, out, stream, options=options).artifacts.PTX
    (kernel,) = read(text).values()
    return plan, Program(kernel)


def ask(program: Program, counts: np.ndarray, tiles: np.ndarray, rank: int) -> np.ndarray:
    """What warps find: one for each row of ``counts`` and tile."""
    arguments = [number.to_bytes(8, "little") for number in (COUNTS, OUT)]
    launch = Launch(program.kernel.name, arguments, (1 << 20, 1, 1), 32, 1, 0, False)
    found = np.zeros((len(tiles), RESULTS), np.int32)
    for row, (mine, tile) in enumerate(zip(counts, tiles.tolist(), strict=True)):
        memory = GlobalMemory(
            [Region("counts", COUNTS, mine.view(np.uint8)), Region("out", OUT, found[row].view(np.uint8))]
        )
        cluster = CtaCluster(program, launch, memory, tile, launch.cluster)
        (warp,) = cluster.warps
        if "%ctaid.y" in program.registers.names:  # the probe takes the rank in the cluster from it
            warp.rows["r"][program.registers.names["%ctaid.y"][1]] = rank
        while not cluster.is_done:
            cluster.turn()
    return found


def random_counts(plan: GemmPlan, rng: np.random.Generator) -> np.ndarray:
    """Rows of experts: none, one, a tile less or more one, many; few enough for some 60 tiles."""
    tile, shape = plan.tile_t, (min(6, 16_000 // plan.experts), plan.experts)
    pieces = rng.choice([0, 1, tile - 1, tile, tile + 1, 2 * tile, 3 * tile - 1], shape)
    alive = rng.random(shape) < rng.choice([0.02, 0.1, 0.3], (shape[0], 1)) * min(1, 20 / plan.experts)
    alive[0], alive[1] = False, True  # nobody, everybody
    alive[2:4] = False  # one expert alone, and two
    alive[2:4, 1], alive[3, 2] = True, True
    pieces[2:4, 1], pieces[3, 2] = 2 * tile - 1, tile + 1
    return (pieces * alive).astype(np.uint32)


def steps_of(plan: GemmPlan, counts: np.ndarray) -> np.ndarray:
    """Token tiles of each expert; none where another launch has it."""
    bound = np.full((len(counts), 1), plan.above + plan.upto)
    if plan.crowded and not plan.crowded_total:
        bound[counts.max(axis=1) <= plan.crowded] = plan.crowded
    elif plan.crowded:
        busy = np.where(counts > plan.crowded, counts, 0).sum(axis=1)
        bound[busy <= plan.crowded_total] = counts.max()
    served = ((plan.above == 0) | (counts > bound)) & ((plan.upto == 0) | (counts <= bound))
    mine = np.where(served, counts, 0).astype(int)
    if plan.small_tiles:
        few = (-(-mine // plan.small_rows)).sum(axis=1) <= plan.small_tiles
        mine *= (few == plan.small)[:, None]
    height = np.full((len(counts), 1), plan.tile_t * plan.cluster_t)
    if plan.narrow_tiles:
        height[(-(-mine // plan.narrow)).sum(axis=1) <= plan.narrow_tiles] = plan.narrow
    return -(-mine // height)


def test_every_tile_is_taken_once_and_in_order(table):
    plan, kernel = table
    counts = random_counts(plan, np.random.default_rng(1))
    steps = steps_of(plan, counts)
    groups = plan.weight_tiles // plan.cluster_w
    totals = steps.sum(axis=1) * groups * plan.split_k
    owner = np.repeat(np.arange(len(counts)), totals)
    tiles = np.concatenate([np.arange(t) for t in totals])
    for rank in range(2 if plan.multicast == "weights" else 1):
        found = ask(kernel, counts[owner], tiles, rank)
        assert (found[:, 0] == totals[owner]).all()
        for vector, (step, begin) in enumerate(zip(steps, np.cumsum(totals) - totals, strict=True)):
            mine = [tuple(row) for row in found[begin : begin + totals[vector], 1:]]
            assert mine == wanted(plan, step, groups, rank), counts[vector]


def wanted(plan: GemmPlan, steps: np.ndarray, groups: int, rank: int) -> list[tuple[int, ...]]:
    """(expert, token tile, weight tile, part, together) in the order that sched.py describes."""
    if plan.order != "mixed":
        return [step for expert, n in enumerate(steps) for step in inside(plan, expert, n, groups, rank)]
    kinds = ([e for e, n in enumerate(steps) if n > 1], [e for e, n in enumerate(steps) if n == 1])
    many, single = ([s for e in kind for s in inside(plan, e, steps[e], groups, rank)] for kind in kinds)
    total, order = len(many) + len(single), []
    for t in range(total):
        before = t * len(single) // total
        order.append(single[before] if (t + 1) * len(single) // total > before else many[t - before])
    return order


def inside(plan: GemmPlan, expert: int, n: int, groups: int, rank: int) -> list[tuple[int, ...]]:
    """The tiles of one expert with ``n`` token tiles."""
    order = []
    pairs = [(t, g) for t in range(n) for g in range(groups)]
    if plan.order != "weights":
        pairs = [(t, g) for g in range(groups) for t in range(n)]
    for t, g in pairs:
        weight_tile, together = g * plan.cluster_w + rank, False
        if plan.multicast == "weights" and (t | 1) < n:
            t, weight_tile, together = (t & ~1) + rank, 2 * g + (t & 1), True
        order += [(expert, t, weight_tile, part, int(together)) for part in range(plan.split_k)]
    return order


def test_a_cluster_that_shares_weights_covers_every_tile_of_every_expert():
    """Both CTAs together, for even and odd numbers of token tiles; the expected order itself is what is checked."""
    plan = PLANS["pairs of token tiles share weights"]
    groups = plan.weight_tiles // plan.cluster_w
    for n in range(1, 8):
        both = [step for rank in (0, 1) for step in wanted(plan, np.array([n]), groups, rank)]
        assert sorted(s[1:3] for s in both) == [(t, w) for t in range(n) for w in range(plan.weight_tiles)]


def test_a_tile_past_the_end_belongs_to_no_expert(table):
    """What CTAs without work and a role's last look-ahead ask for: the total tells them apart."""
    plan, kernel = table
    counts = random_counts(plan, np.random.default_rng(2))[:64]
    steps = steps_of(plan, counts)
    totals = steps.sum(axis=1) * (plan.weight_tiles // plan.cluster_w) * plan.split_k
    for beyond in (0, 1, 131, 100_000):
        found = ask(kernel, counts, totals + beyond, 0)
        assert (found[:, 0] == totals).all()
        assert (found[:, 1] >= plan.experts).all()
