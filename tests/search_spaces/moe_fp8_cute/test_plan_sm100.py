"""What the plans of sm_100a promise: space, memory, barriers, copies, and that every output element has one writer."""

import dataclasses
import random
from collections import Counter

import pytest

from search_spaces.moe_fp8_cute.solution.budget import REGISTERS_PER_SM, SMEM_PER_CTA, SMEM_PER_SM
from search_spaces.moe_fp8_cute.solution.budget_sm100 import TMEM_COLUMNS
from search_spaces.moe_fp8_cute.solution.plans import batch_rows, launches, plans, row_align, row_capacity
from search_spaces.moe_fp8_cute.space import FAMILY
from search_spaces.moe_fp8_cute.space_sm100 import DEFAULT, PAIRS
from tests.search_spaces.moe_fp8.definitions import promising
from tests.search_spaces.moe_fp8_cute.blackwell_model import Cluster
from tests.search_spaces.moe_fp8_cute.test_space import SIZES, made_up


@pytest.fixture(scope="module")
def space():
    return FAMILY.space(made_up(), "sm_100a")


@pytest.fixture(scope="module")
def sample(space):
    """Plans of random configs, and plans that cover every cluster shape and kind of MMA."""
    rng = random.Random(1)
    found = {}
    for _ in range(400):
        config = space.sample(rng)
        for plan in plans(config, SIZES):
            key = (plan.role, plan.swap, plan.mma_shape[0], plan.cluster_w, plan.cluster_t, plan.gather, plan.gather4)
            found.setdefault(key, plan)
    return list(found.values())


def test_ten_thousand_configs_are_valid(space):
    hashes = {space.config_hash(c) for c in space.enumerate(limit=10_000)}
    assert len(hashes) == 10_000


@pytest.mark.parametrize(("hidden", "intermediate"), [(512, 256), (2048, 512), (2048, 768), (4096, 1536)])
def test_other_sizes_have_a_valid_default_and_configs(hidden, intermediate):
    definition = made_up()
    sizes = {"hidden_size": hidden, "intermediate_size": intermediate, "gemm1_out_size": 2 * intermediate}
    sizes |= {"num_hidden_blocks": hidden // 128, "num_intermediate_blocks": intermediate // 128}
    for name, value in sizes.items():
        definition["axes"][name]["value"] = value
    space = FAMILY.space(definition, "sm_100a")
    assert space.violation(space.default) is None
    rng = random.Random(4)
    for plan in (p for _ in range(20) for p in plans(space.sample(rng), space.sizes)):
        assert plan.problem() is None
        assert plan.weight_tiles * plan.tile_w == plan.n
        assert plan.k_blocks * plan.split_k * 128 == plan.k


def test_every_value_occurs_in_a_valid_config(space):
    """Of a few hundred that are drawn; scaled MMAs only where scales are promised to be powers of two."""
    rng = random.Random(3)
    missing = {(p.name, value) for p in space.parameters for value in p.values}
    for drawn, scales in ((space, False), (FAMILY.space(promising(made_up()), "sm_100a"), True)):
        for _ in range(700):
            missing -= set(drawn.sample(rng).items())
            if {name for name, _ in missing} <= (set() if scales else {"scaled_1", "scaled_2"}):
                break
    assert missing == set()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tile_t_1": 64}, "as many token rows as its MMA"),
        ({"tile_w_2": 64}, "starves on shared memory bandwidth"),
        ({"swap_1": True, "tile_t_1": 8}, "N of an MMA goes to 256"),
        ({"swap_2": True, "mma_m_2": 256, "tile_t_2": 16, "cluster_w_2": 2, "cluster_t_2": 1}, "32 in a pair"),
        ({"mma_m_1": 256}, "a pair of CTAs is a cluster of two"),
        ({"cluster_w_2": 4, "cluster_t_2": 4}, "at most 8 CTAs"),
        ({"mma_m_1": 256, "cluster_t_1": 2, "gather": "fused"}, "its own CTA's barrier"),
        ({"k_tile_1": 512}, "227 KB per CTA"),
        ({"acc_stages_1": 4}, "512 columns"),
        ({"swap_1": True, "tile_t_1": 16, "tile_w_1": 128}, "requantisation block"),
        ({"split_k_2": 2}, "added by the atomics"),
        ({"swap_1": True, "tile_t_1": 192, "tile_w_1": 256, "acc_stages_1": 1, "stages_1": 2}, "64 K registers"),
        ({"pdl": False}, "without programmatic launch"),
        ({"handover": True, "combine": "atomic_f32", "stages_2": 2}, "handover passes on bfloat16 rows"),
        ({"fallback": True, **PAIRS}, "only a cluster of more CTAs than a pair"),
        ({"scaled_2": True, "acc_stages_2": 1}, "scaled MMAs multiply with powers of two: a definition promises them"),
        ({"narrow": 16}, "more token columns can be multiplied with fewer"),
        ({"swap_2": True, "tile_t_2": 32, "tile_w_2": 128, "narrow": 8}, "the second N, too"),
    ],
)
def test_constraints_name_the_reason(space, change, reason):
    config = space.check({**DEFAULT, **change})
    assert reason in space.violation(config)


def test_plans_fit_the_hardware(sample):
    for plan in sample:
        assert plan.problem() is None
        assert plan.smem_bytes <= SMEM_PER_CTA
        assert plan.ctas_per_sm * (plan.smem_bytes + 1024) <= SMEM_PER_SM
        assert plan.tmem_columns in (32, 64, 128, 256, 512)
        assert plan.acc_stages * plan.acc_columns <= plan.tmem_columns
        assert plan.ctas_per_sm * plan.tmem_columns <= TMEM_COLUMNS
        assert plan.cluster <= 8
        assert plan.ctas % plan.cluster == 0
        low, high = plan.registers
        launch = min(255, REGISTERS_PER_SM // plan.ctas_per_sm // plan.threads // 8 * 8)
        assert low == high or 128 * low + 128 * plan.groups * high <= launch * plan.threads


def test_defaults_and_starts_keep_enough_bytes_on_their_way(space):
    """A TMA reaches the memory's rate from 128 KB an SM on; fewer stages would fit just as well and be slower."""
    for config in (space.default, {**space.default, **PAIRS}, *(start.config for start in space.starts)):
        for name, plan in launches(config, space.sizes):
            assert plan.stages * plan.stage_bytes * plan.ctas_per_sm >= 128 << 10, name


def test_sample_covers_pairs_clusters_and_ways_to_gather(sample):
    assert {p.mma_shape[0] for p in sample} == {64, 128, 256}
    assert {(p.cluster_w, p.cluster_t) for p in sample} >= {
        (1, 1),
        (2, 1),
        (1, 2),
        (2, 2),
        (4, 1),
        (1, 4),
        (4, 2),
        (2, 4),
    }
    assert {(p.gather, p.gather4) for p in sample} == {(False, False), (True, False), (True, True)}


def test_boxes_bring_every_row_of_a_tile_once_to_each_cta_that_needs_it(sample):
    for plan in sample:
        rows = plan.tile_w // plan.weight_pieces
        weight_tile = 5
        for rank in range(plan.cluster):
            held = []
            for peer in plan.weight_peers(rank):
                assert plan.weight_peers(peer) == plan.weight_peers(rank)
                share = plan.weight_peers(peer).index(peer)
                half = peer % 2 if plan.weight_halves == 2 else 0
                piece = (half * len(plan.weight_peers(0)) + share) * plan.weight_copies
                held += [plan.weight_box(weight_tile, piece + i) for i in range(plan.weight_copies)]
            first_half = rank % 2 if plan.weight_halves == 2 else 0
            assert [r for box in held for r in box_rows(plan, box, rows)] == tile_rows(plan, weight_tile, first_half)


def box_rows(plan, box, rows):
    """Weight rows of an expert in a TMA box, in the order in which they land."""
    if plan.paired and plan.swap:
        # Eight up rows, eight gate rows, and so on: the box holds rows / 2 of either half.
        first = box * rows // 2
        return [first + 8 * i + r + half * plan.n // 2 for i in range(rows // 16) for half in (0, 1) for r in range(8)]
    return list(range(box * rows, (box + 1) * rows))


def tile_rows(plan, weight_tile, half):
    """Weight rows that a CTA must hold for a tile, in the order of the MMA's operand."""
    c = plan.columns
    if not plan.paired:
        rows = list(range(weight_tile * plan.tile_w, (weight_tile + 1) * plan.tile_w))
    else:
        g = plan.interleave
        up = range(weight_tile * c, (weight_tile + 1) * c)
        rows = [r + h * plan.n // 2 for i in range(0, c, g) for h in (0, 1) for r in up[i : i + g]]
    return rows[half * plan.weight_rows : (half + 1) * plan.weight_rows]


def test_every_barrier_gets_the_bytes_and_arrivals_it_waits_for_and_roles_agree(sample):
    for n, plan in enumerate(sample):
        stages = 2 * plan.stages + 1
        counted = Cluster(plan, stages).run(random.Random(n))
        by_block = {v for name, v in counted.items() if name.startswith(("multiply", "promote"))}
        by_stage = {v for name, v in counted.items() if name.startswith(("weights", "rows"))}
        assert by_stage == {stages}
        assert by_block == {stages * plan.k_per_stage}


def test_smaller_clusters_are_parts_of_whole_ones_with_counts_of_their_own(sample):
    smaller = [p for p in (dataclasses.replace(p, fallback=True) for p in sample) if p.least < p.cluster]
    assert {(p.swap, p.pair, p.least) for p in smaller} >= {(True, True, 2), (False, True, 2), (True, False, 1)}
    for plan in smaller:
        for first in range(0, plan.cluster, plan.least):
            ranks = range(first, first + plan.least)
            assert {plan.unit(r) for r in ranks} <= set(ranks)
            for r in ranks:
                masks = [plan.near_commit_mask(issuer) for issuer in ranks if plan.unit(issuer) == issuer]
                assert sum(mask >> r % plan.least & 1 for mask in masks) == len(plan.near_readers(r))
                assert len(plan.near_readers(r)) + 4 * plan.groups == plan.near_empty_arrivals
                for peers in (plan.weight_peers(r), plan.token_peers(r)):
                    assert r in plan.near(r, peers)
                    assert len(peers) % len(plan.near(r, peers)) == 0


@pytest.mark.parametrize("name", ["full_arrivals", "scale_arrivals", "empty_arrivals", "drained_arrivals"])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_count_that_is_wrong_by_one_is_noticed(sample, name, change):
    for plan in sample[:6]:
        broken = altered(plan, name, getattr(plan, name) + change)
        with pytest.raises(AssertionError):
            run_often(broken)


@pytest.mark.parametrize("name", ["weight_bytes", "token_bytes"])
def test_announced_bytes_that_do_not_come_are_noticed(sample, name):
    plan = next(p for p in sample if getattr(p, name))
    with pytest.raises(AssertionError):
        Cluster(altered(plan, name, getattr(plan, name) + 16), 3).run(random.Random(0))


def run_often(plan):
    """Some interleavings: one that happens to go well says nothing."""
    for seed in range(20):
        Cluster(plan, 2 * plan.stages + 1).run(random.Random(seed))


def altered(plan, name, value):
    """The plan with one of its numbers replaced."""
    kind = type("Altered", (type(plan),), {name: property(lambda _: value)})
    return kind(**{f.name: getattr(plan, f.name) for f in dataclasses.fields(plan)})


def test_promotion_warps_read_the_lanes_that_hold_their_rows(sample):
    for plan in sample:
        rows = 64 * plan.groups
        # Tensor memory: row r of 128 in lane r; of 64 in 16 lanes of each warp's 32 (checked with the DSL's layouts in
        # test_ptx_sm100.py).
        lane_of = {r: r if rows == 128 else r % 16 + 32 * (r // 16) for r in range(rows)}
        warps = range(4 * plan.groups)
        assert sorted(plan.slab(w) for w in warps) == list(range(rows // 16))
        for warp in warps:
            first = 32 * (warp % 4) + 16 * (warp // 4)
            slab = plan.slab(warp)
            assert [lane_of[16 * slab + i] for i in range(16)] == list(range(first, first + 16))


def fragment(plan):
    """(token row, weight row) inside a CTA's tile of every accumulator element of all promotion threads."""
    for warp in range(4 * plan.groups):
        slab = plan.slab(warp)
        for lane in range(32):
            for s in range(plan.subs):
                for i in range((plan.tile_t if plan.swap else plan.sub_w) // 2):
                    c, h, j = i % 2, i // 2 % 2, i // 4
                    m, n = 16 * slab + lane // 4 + 8 * h, 8 * j + 2 * (lane % 4) + c
                    yield (n, 64 * plan.groups * s + m) if plan.swap else (m, plan.sub_w * s + n)


def test_every_accumulator_element_belongs_to_one_thread(sample):
    for plan in {(*p.mma_shape, p.swap, p.tile_w): p for p in sample}.values():
        held = Counter(fragment(plan))
        assert max(held.values()) == 1
        assert set(held) == {(t, w) for t in range(plan.tile_t) for w in range(plan.tile_w)}


def test_every_tile_of_every_segment_is_computed_by_one_cta(sample):
    rng = random.Random(9)
    for plan in sample:
        counts = [rng.choice([0, 0, 1, 7, 64, 129, 300]) for _ in range(6)]
        cover = Counter()
        for expert, count in enumerate(counts):
            for token_group in range(-(-count // (plan.tile_t * plan.cluster_t))):
                for weight_group in range(plan.weight_tiles // plan.cluster_w):
                    for rank in range(plan.cluster):
                        w, t = plan.place(rank)
                        token_tile = token_group * plan.cluster_t + t
                        cover[expert, token_tile, weight_group * plan.cluster_w + w] += 1
        assert set(cover.values()) <= {1}
        for expert, count in enumerate(counts):
            tiles = {t for e, t, _ in cover if e == expert}
            assert tiles >= set(range(-(-count // plan.tile_t)))
            weights = {w for e, _, w in cover if e == expert}
            assert weights == (set(range(plan.weight_tiles)) if count else set())


@pytest.mark.parametrize("layout", ["flat", "batched"])
def test_tiles_never_reach_beyond_their_experts_segment(space, layout):
    rng = random.Random(11)
    for _ in range(60):
        config = space.sample(rng) | {"layout": layout}
        tokens = rng.choice([1, 3, 17, 130, 500])
        align, experts = row_align(config), SIZES["local_experts"]
        counts = [min(tokens, rng.choice([0, 0, 0, 1, 5, 64, 200])) for _ in range(experts)]
        while sum(counts) > tokens * SIZES["top_k"]:
            counts[rng.randrange(experts)] = 0
        size = [batch_rows(config, tokens) if layout == "batched" else -(-c // align) * align for c in counts]
        for plan in plans(config, SIZES):
            step = plan.tile_t * plan.cluster_t
            assert all(-(-c // step) * step <= s for c, s in zip(counts, size, strict=True))
        assert sum(size) <= row_capacity(config, SIZES, tokens)
