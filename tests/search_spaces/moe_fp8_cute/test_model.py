"""The model of the MoE kernels: arithmetic that can be checked by hand, and every config of both targets."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from benchmarks.packaged_dataset.make import MoeSizes
from search_spaces.moe_fp8_cute.model import even_rows
from search_spaces.moe_fp8_cute.model_gemm import (
    FittedConstants,
    _hopper,
    blackwell_block,
    finished,
    gemm,
    tiles_of,
)
from search_spaces.moe_fp8_cute.solution.plans import SMS, few_rows, many_plans, plans
from search_spaces.moe_fp8_cute.solution.plans_sm100 import SMS_BLACKWELL
from search_spaces.moe_fp8_cute.space import FAMILY
from search_spaces.prediction.model import Hardware, WorkloadFeatures
from tests.search_spaces.moe_fp8 import definitions as moe
from workers.devices.hardware import hardware_of

DEFINITION = moe.definition(MoeSizes(7168, 2048, 256, 32, 8, 8, 4), moe.as_tuple)
GPUS = {"sm_90a": "NVIDIA H200", "sm_100a": "NVIDIA B200"}


def gpu(target: str) -> Hardware:
    found = hardware_of(GPUS[target])
    assert found is not None
    return found


@pytest.fixture(scope="module", params=sorted(GPUS))
def space(request):
    return FAMILY.space(DEFINITION, request.param)


def predicted(space, config, tokens, rows=None) -> float:
    features = WorkloadFeatures({"seq_len": tokens}, {} if rows is None else {"rows_per_expert": rows})
    return space.model.predict(config, features, gpu(space.target)).us


def test_every_config_has_a_finite_prediction_above_what_the_memory_allows(space):
    rng = random.Random(3)
    for _ in range(60):
        config = space.sample(rng)
        for tokens, rows in ((1, (1, 1, 1) + (0,) * 29), (57, None), (4096, None)):
            used = sum(1 for r in rows or even_rows(tokens, space.sizes) if r)
            floor = used * 3 * 7168 * 2048 / gpu(space.target).hbm_bytes_per_us
            assert floor < predicted(space, config, tokens, rows) < math.inf


def test_more_rows_never_take_less(space):
    rng = random.Random(4)
    for _ in range(40):
        config = space.sample(rng)
        if config["split_rows"]:
            continue  # more rows may change the launch, and the other one may be faster
        times = [predicted(space, config, 512, (r,) * 32) for r in (16, 64, 256, 2048)]
        assert times == sorted(times), config


def test_no_rows_at_all_cost_only_launches(space):
    assert predicted(space, space.default, 16, (0,) * 32) < 20


@pytest.mark.parametrize("rows", [(), (0,), (1,), (8, 9, 64, 65, 130), (256,) * 3])
@pytest.mark.parametrize(("tile", "step", "narrow"), [(8, 8, 0), (64, 64, 0), (128, 64, 0), (32, 32, 8)])
def test_tiles_are_those_of_the_kernels(rows, tile, step, narrow):
    """Beside the plain count of a kernel's tiles; narrow and half-empty ones multiply fewer rows."""
    found = tiles_of(rows, 0, 0, tile, step, narrow)
    count = multiplied = 0
    for r in rows:
        for start in range(0, r, tile):
            left = min(tile, r - start)
            count += 1
            multiplied += narrow if left <= narrow else next(m for m in range(step, tile + 1, step) if m >= left)
    assert (found.experts, found.count, found.rows) == (sum(r > 0 for r in rows), count, sum(rows))
    assert found.multiplied == multiplied


@pytest.mark.parametrize("rows", [(8,), (40,), (65, 100), (1, 128, 129)])
@pytest.mark.parametrize("narrow", [0, 16])
def test_clusters_have_whole_tiles_and_those_without_rows_are_narrow(rows, narrow):
    """Two token tiles of 64 a cluster, as CTAs of Blackwell decide: each for its own tile."""
    found = tiles_of(rows, 0, 0, 64, 64, narrow, 2)
    tiles = [r - start for r in rows for start in range(0, -(-r // 128) * 128, 64)]
    assert 2 * found.count == len(tiles)
    assert found.multiplied == sum(narrow if narrow and left <= narrow else 64 for left in tiles)


def test_experts_are_divided_between_the_launches():
    rows = (3, 16, 17, 200)
    few, many = tiles_of(rows, 0, 16, 8, 8, 0), tiles_of(rows, 16, 0, 64, 64, 0)
    assert (few.rows, many.rows) == (19, 217)


def test_the_busiest_expert_decides_which_of_two_bounds_divides_a_call():
    """At the bound all are few; one row more, and the smaller bound divides. Beside configs that have one bound."""
    hopper = FAMILY.space(DEFINITION, "sm_90a")
    base = {**hopper.default, "combine": "atomic_bf16", "gather": "many", "tile_w_1": 128, "tile_w_2": 128}
    both = {**base, "split_rows": 16, "crowded_rows": 64}
    small, large = ({**base, "split_rows": rows} for rows in (16, 64))
    spread = (64, *[20] * 31)
    assert predicted(hopper, both, 901, spread) == predicted(hopper, large, 901, spread)
    busy = (65, *spread[1:])
    assert predicted(hopper, both, 901, busy) == predicted(hopper, small, 901, busy)
    assert predicted(hopper, small, 901, spread) != predicted(hopper, large, 901, spread)


def test_the_rows_of_all_busy_experts_together_decide_whether_a_call_is_divided():
    """One expert of 256 rows and three are the same to the busiest one; 262 rows of small ones are no reason either."""
    hopper = FAMILY.space(DEFINITION, "sm_90a")
    base = {**hopper.default, "combine": "atomic_bf16", "gather": "many", "tile_w_1": 128, "tile_w_2": 128}
    divided = {**base, "split_rows": 16}
    both = {**divided, "crowded_rows": 64, "crowded_total": 256}
    one, even, three = (256, *[0] * 31), (64,) * 32, (256, 256, 256, *[20] * 29)
    for rows in (one, even):
        assert few_rows(both, rows) >= max(rows)
        assert predicted(hopper, both, 256, rows) != predicted(hopper, divided, 256, rows)
    assert predicted(hopper, both, 256, three) == predicted(hopper, divided, 256, three)


def test_rows_that_nobody_copies_beside_gemm_1_are_not_waited_for():
    hopper = FAMILY.space(DEFINITION, "sm_90a")
    gathers = {**hopper.default, "split_rows": 16, "crowded_rows": 64}
    beside = {**gathers, "gather": "beside"}
    assert predicted(hopper, beside, 256, (64,) * 8) == predicted(hopper, gathers, 256, (64,) * 8)
    assert predicted(hopper, beside, 256, (65,) * 8) != predicted(hopper, gathers, 256, (65,) * 8)


def cap(block) -> int:
    """Per cent of the tensor core's peak that the shared memory port allows."""
    return round(100 * min(1.0, block.tensor / block.smem))


def test_shared_memory_port_allows_what_its_bytes_say():
    """Hopper: 128 x 128 is held at 80 % of the tensor peak, 128 x 256 at 89; Blackwell: 67 % alone, 100 % in a pair.

    By hand, 128 bytes a cycle: a 128 x 256 K block of two warpgroups writes 48 KB, reads 32 KB of tokens and 64 KB of
    weights, in 1,152 cycles; its MMAs take 1,024.
    """
    hopper = FAMILY.space(DEFINITION, "sm_90a")
    base = {**hopper.default, "tile_t_1": 128, "groups_1": 2, "tile_w_1": 256, "stages_1": 4}
    plan = plans(base, hopper.sizes)[0]
    assert cap(_hopper(plan, 128, gpu("sm_90a"), FittedConstants())) == 89
    assert cap(_hopper(replace(plan, tile_w=128), 128, gpu("sm_90a"), FittedConstants())) == 80
    blackwell = FAMILY.space(DEFINITION, "sm_100a")
    alone = plans(blackwell.default, blackwell.sizes)[0]
    pair = many_plans({**blackwell.default, "split_rows": 32, "many_mma_m": 256}, blackwell.sizes)[0]
    assert cap(blackwell_block(alone, 128, gpu("sm_100a"))) == 67
    assert cap(blackwell_block(pair, 128, gpu("sm_100a"))) == 100


def test_a_last_wave_of_few_tiles_is_a_tail():
    """132 CTAs: 33 experts of one token tile and 4 weight tiles fill one wave, one more expert starts another."""
    space = FAMILY.space(DEFINITION, "sm_90a")
    plan = replace(plans(space.default, space.sizes)[0], n=4 * 256)
    whole = gemm("g", plan, (64,) * 33, gpu("sm_90a"), FittedConstants(), 0)
    more = gemm("g", plan, (64,) * 34, gpu("sm_90a"), FittedConstants(), 0)
    assert more.us > 1.3 * whole.us
    assert more.losses_us["tail"] > whole.losses_us["tail"]


def test_a_gemm_2_that_is_fed_tile_by_tile_fills_a_part_of_the_tail():
    """Also where nobody has rows, and more rows take no less than fewer."""
    hopper = FAMILY.space(DEFINITION, "sm_90a")
    fed = {**hopper.default, "feed": "tiles"}
    assert predicted(hopper, fed, 9, (0,) * 32) == predicted(hopper, hopper.default, 9, (0,) * 32)
    before, after = ([predicted(hopper, c, 4096, (r,) * 32) for r in range(8, 600, 24)] for c in (hopper.default, fed))
    assert all(b <= a for a, b in zip(before, after, strict=True))
    assert before != after
    assert after == sorted(after)


def test_a_gemm_2_that_is_fed_has_nothing_to_do_beside_the_only_wave_of_gemm_1():
    """Was a quarter too fast at one token and with three hot experts at 15, so that searches tried little else."""
    hopper = FAMILY.space(DEFINITION, "sm_90a")
    fed = {**hopper.default, "feed": "tiles"}
    few, many = (64,) * 8 + (0,) * 24, (64,) * 9 + (0,) * 23
    first = plans(hopper.default, hopper.sizes)[0]
    assert (first.weight_tiles * 8, first.ctas) == (128, 132)
    assert predicted(hopper, fed, 64, few) == predicted(hopper, hopper.default, 64, few)
    assert predicted(hopper, fed, 64, many) < predicted(hopper, hopper.default, 64, many)
    there = [finished(first, (64,) * n, gpu("sm_90a")) for n in (1, 8, 9, 33)]
    assert there == [0.0, 0.0, 132 / 144, 3 * 132 / 528]


def kernels(space, config, tokens, rows) -> dict[str, float]:
    features = WorkloadFeatures({"seq_len": tokens}, {"rows_per_expert": rows})
    return {k.name: k.us for k in space.model.predict(config, features, gpu(space.target)).kernels}


SPLIT = {"split_rows": 16, "swap_1": True, "tile_t_1": 16, "tile_w_1": 128, "swap_2": True, "tile_t_2": 16}
"""Two launches of each GEMM on Hopper."""


@pytest.mark.parametrize(("count", "clearing", "other"), [(8, "moe_gemm_1", "_many"), (64, "moe_gemm_1_many", "")])
def test_the_launch_for_many_rows_clears_the_output_where_it_has_any(count, clearing, other):
    """Charged to the launch for few rows alone, where it has no tiles, clearing was free: 4 % at 14,107 tokens."""
    hopper = FAMILY.space(DEFINITION, "sm_90a")
    added, stored = (
        kernels(hopper, {**hopper.default, **SPLIT, "combine": combine}, 4096, (count,) * 32)
        for combine in ("atomic_bf16", "finalize")
    )
    us = FittedConstants().clearing * 4096 * 7168 * 2 / gpu("sm_90a").hbm_bytes_per_us
    assert added[clearing] - stored[clearing] == pytest.approx(us)
    assert added[f"moe_gemm_1{other}"] == stored[f"moe_gemm_1{other}"]


def test_first_rows_are_waited_for_only_where_a_launch_copies_them():
    """The launch for few rows gathers them itself: 12 us too many, of 150 at 15 tokens."""
    hopper = FAMILY.space(DEFINITION, "sm_90a")
    beside = {**hopper.default, **SPLIT, "gather": "beside"}
    assert "first rows" not in kernels(hopper, beside, 57, (16,) * 32)
    assert "first rows" in kernels(hopper, beside, 57, (16,) * 31 + (17,))


def test_first_rows_take_as_long_as_a_warp_has_rows_of_them():
    """A constant was 12 us, of 55 with three hot experts at 15 tokens, and too little where all rows are of few."""
    hopper = FAMILY.space(DEFINITION, "sm_90a")
    beside = {**hopper.default, "gather": "beside"}  # tiles of 64 rows, four consumer warps in each of 132 CTAs
    took = [kernels(hopper, beside, 4096, (rows, 0))["first rows"] for rows in (1, 528, 529, 132 * 64, 30_000)]
    assert took == [4.0, 4.0, 6.5, 4 + 15 * 2.5, 4 + 15 * 2.5]
    gemm_1 = [kernels(hopper, {**beside, "gather": g}, 4096, (4096, 0))["moe_gemm_1"] for g in ("kernel", "beside")]
    assert gemm_1[0] < gemm_1[1], "rows are read and written beside it"


def test_a_k_block_has_a_least_time_with_swapped_operands():
    """Narrow tiles were predicted as if half of the weights took half of the time, 8 % too fast at one token."""
    hopper = FAMILY.space(DEFINITION, "sm_90a")
    plan = plans({**hopper.default, **SPLIT}, hopper.sizes)[1]
    narrow, wide = (_hopper(replace(plan, tile_w=w), 8, gpu("sm_90a"), FittedConstants()) for w in (64, 128))
    assert narrow.chain == wide.chain > 2 * narrow.fma
    assert narrow.l2_bytes < wide.l2_bytes


def test_weights_that_stream_early_save_no_more_than_the_tail_before_them():
    hopper = FAMILY.space(DEFINITION, "sm_90a")
    early = {**hopper.default, "early_weights": True}
    for rows in ((64,) * 32, (1,) * 3 + (0,) * 29):
        features = WorkloadFeatures({"seq_len": 57}, {"rows_per_expert": rows})
        first = next(k for k in hopper.model.predict(early, features, gpu("sm_90a")).kernels if k.name == "moe_gemm_1")
        late = kernels(hopper, {**early, "early_weights": False}, 57, rows)["moe_gemm_2"]
        saved = late - kernels(hopper, early, 57, rows)["moe_gemm_2"]
        assert 0 < saved <= first.losses_us["tail"] + FittedConstants().fill_us


def test_even_rows_add_up_to_the_expected_number():
    for tokens in (1, 57, 901, 14107):
        rows = even_rows(tokens, {"top_k": 8, "experts": 256, "local_experts": 32})
        assert sum(rows) == pytest.approx(tokens, rel=0.02, abs=0.5)


def test_hardware_has_as_many_sms_as_the_kernels_are_made_for():
    assert gpu("sm_90a").sms == SMS
    assert gpu("sm_100a").sms == SMS_BLACKWELL
    assert not gpu("sm_100a").measured


@pytest.mark.parametrize("name", ["NVIDIA H100 PCIe", "NVIDIA H100 NVL", "NVIDIA GB200", "AMD EPYC", ""])
def test_hardware_that_nobody_filled_in_is_unknown(name):
    assert hardware_of(name) is None
