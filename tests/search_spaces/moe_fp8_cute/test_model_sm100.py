"""The model of Blackwell's tiles beside the arithmetic on SASS that was recorded: right direction, right amount."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.blackwell_static.epilogue import Tile
from search_spaces.moe_fp8.reading import POWER_OF_TWO
from search_spaces.moe_fp8_cute.model_gemm import FittedConstants, _tile_cycles, _wave, gemm, tiles_of
from search_spaces.moe_fp8_cute.model_sm100 import HANDED_BACK, between_cycles, tile_cycles
from search_spaces.moe_fp8_cute.solution.budget_sm100 import BlackwellPlan
from search_spaces.moe_fp8_cute.solution.plans import launches
from search_spaces.moe_fp8_cute.space import FAMILY
from search_spaces.moe_fp8_cute.space_sm100 import PAIRS
from search_spaces.prediction.model import Hardware
from tests.search_spaces.moe_fp8_cute.test_model import DEFINITION, gpu

RECORDED = json.loads((Path(__file__).parents[3] / "docs" / "results" / "blackwell-epilogue.json").read_text())
SPACE = FAMILY.space({**DEFINITION, "tags": [POWER_OF_TWO]}, "sm_100a")
ADDED = {**PAIRS, "combine": "atomic_bf16"}
SCALED = {**{f"{n}_{i}": v for i in (1, 2) for n, v in (("scaled", True), ("acc_stages", 1))}, "stages_1": 5}
TWO_BLOCKS = {f"{n}_{i}": v for i in (1, 2) for n, v in (("k_tile", 256), ("stages", 3))}
FULL = (512,) * 32
B200 = gpu("sm_100a")


def plan_of(launch: str, **changes) -> BlackwellPlan:
    config = {**SPACE.default, **changes}
    assert SPACE.violation(config) is None
    return dict(launches(config, SPACE.sizes))[launch]


def cycles(launch: str, hardware: Hardware = B200, **changes) -> float:
    """Of a full tile, from its end to the end of the next."""
    plan = plan_of(launch, **changes)
    tiles = tiles_of(FULL, 0, 0, plan.tile_t, plan.tile_t, 0, plan.cluster_t)
    wave = _wave(plan, tiles, 1000, hardware, FittedConstants())
    return _tile_cycles(plan, wave, 1, hardware)


def name_of(form: dict) -> str:
    marks = [form["launch"], form["out"], f"{form['tile_t']}x{form['tile_w']}"]
    return " ".join([*marks, *(mark for mark in ("swap", "pair", "handover", "fallback", "scaled") if form[mark])])


@pytest.mark.parametrize("form", RECORDED["forms"], ids=name_of)
def test_what_lies_between_two_tiles_is_what_its_sass_says(form):
    """The constant of another epilogue, or of a tile that hands its rows over, is seen here."""
    plan = plan_of(form["launch"], **form["changes"])
    large = form["tile_t"] * form["tile_w"] >= 64 * 256
    assert between_cycles(plan, plan.tile_t) == pytest.approx(form["between"], rel=0.2 if large else 0.35)
    if large and not form["scaled"]:
        assert form["handed_back"] / form["promotion"] == pytest.approx(HANDED_BACK, abs=0.13)


def test_all_kinds_of_epilogue_were_recorded():
    kinds = {(form["swap"], form["out"]) for form in RECORDED["forms"]}
    assert len(kinds) == 10
    assert {name for form in RECORDED["forms"] for name in ("handover", "fallback", "scaled") if form[name]} == {
        *("handover", "fallback", "scaled")
    }


@pytest.mark.parametrize("accumulators", [2, 4])
@pytest.mark.parametrize(("mma", "promotion"), [(512, 392), (280, 130), (300, 420)])
@pytest.mark.parametrize("between", [150, 853, 1932, 6105])
def test_a_tile_takes_what_its_parts_take_one_by_one(accumulators, mma, promotion, between):
    """MMAs run ahead by as many K blocks as there are accumulators: none, or one too many, is seen here."""
    plan = plan_of("moe_gemm_2", **ADDED)
    mine = tile_cycles(replace(plan, acc_stages=accumulators), mma, promotion, between, 0.0, 0.0)
    one_by_one = Tile(
        **{"blocks": plan.k_blocks, "slots": 64, "accumulators": accumulators, "load": 0.0, "mma": mma},
        **{"handed_back": HANDED_BACK * promotion, "promotion": promotion, "between": between},
    )
    assert mine == pytest.approx(one_by_one.period(), rel=0.01)


def test_tiles_of_many_rows_take_what_the_recorded_ones_take():
    """A Hopper tile's constant between two tiles gave 10,394 cycles where arithmetic on the SASS gives 9,795."""
    many = [g for g in RECORDED["gemms"] if g["pair"] and g["tile_t"] == 128 and g["tile_w"] == 256 and g["load"] < 300]
    assert {g["launch"] for g in many} == {"moe_gemm_1_many", "moe_gemm_2_many"}
    for g in many:
        said = cycles(g["launch"].removesuffix("_many"), **ADDED, handover=g["handover"])
        port = 16 * 512 + 1024  # rows of GEMM 2 pass through the shared memory port twice, 65,536 bytes
        beside = max(g["tile_cycles"], port) if g["launch"] == "moe_gemm_2_many" else g["tile_cycles"]
        assert said == pytest.approx(beside, rel=0.02), g


def test_rows_handed_over_take_six_to_eleven_per_cent_off_a_tile():
    """6 where the shared memory port must also take them, 11 where it has room; and only off GEMM 2's."""
    before, after = (cycles("moe_gemm_2", **ADDED, handover=on) for on in (False, True))
    assert after / before == pytest.approx(0.94, abs=0.01)
    plan = plan_of("moe_gemm_2", **ADDED, handover=True)
    with_room = tile_cycles(plan, 512, 409, between_cycles(plan, 128), 0.0, 0.0)
    assert with_room / before == pytest.approx(0.89, abs=0.01)
    assert cycles("moe_gemm_1", **ADDED, handover=True) == cycles("moe_gemm_1", **ADDED)


def test_rows_that_are_only_stored_wait_for_nothing_that_a_handover_would_hide():
    """No row asks for its token or weight then: 885 cycles between two tiles, 728 with the rows handed over."""
    assert cycles("moe_gemm_2", **PAIRS, handover=True) > 0.97 * cycles("moe_gemm_2", **PAIRS)


def test_a_handover_takes_as_much_off_a_gemm_as_off_its_tiles():
    """Where nothing but the SM is waited for; and next to nothing where the memory is, as with four rows an expert."""
    free = replace(B200, hbm_bytes_per_us=1e12, l2_bytes_per_us=1e12, load_latency_us=1e-3)
    gained = []
    for rows, hardware in ((8192, free), (4, B200)):
        plans = (plan_of("moe_gemm_2", **ADDED, handover=on) for on in (False, True))
        before, after = (gemm("g", plan, (rows,) * 32, hardware, FittedConstants(), 0).us for plan in plans)
        gained.append(1 - after / before)
    assert gained[0] == pytest.approx(0.06, abs=0.01)
    assert 0 <= gained[1] < 0.025


def test_scaled_mmas_gain_where_the_port_lets_them():
    """Promotion and all but the sums' way out of tensor memory are gone; exponents pass through the port.

    By hand, GEMM 1 of two K blocks a stage: 56 x 528 for MMAs, and 356 until the sums are in registers.
    """
    promoted = cycles("moe_gemm_1", **ADDED)
    assert cycles("moe_gemm_1", **{**ADDED, **SCALED, **TWO_BLOCKS}) == pytest.approx(56 * 528 + 356, abs=2)
    assert cycles("moe_gemm_1", **{**ADDED, **SCALED, **TWO_BLOCKS}) < 0.99 * promoted
    assert cycles("moe_gemm_1", **{**ADDED, **SCALED}) > cycles("moe_gemm_1", **{**ADDED, **SCALED, **TWO_BLOCKS})
    scaled, handed = (cycles("moe_gemm_2", **{**ADDED, **c}) for c in ({**SCALED, **TWO_BLOCKS}, {"handover": True}))
    assert scaled == pytest.approx(16 * 528 + 1024, abs=2)
    assert handed < scaled < cycles("moe_gemm_2", **ADDED)


def test_slow_loads_from_tensor_memory_cost_promotion_and_hardly_scaled_mmas():
    """At 60 cycles a load, and 197 bytes a cycle, promotion holds the tensor cores up."""
    slow = replace(B200, tmem_load_cycles=60, tmem_bytes_per_cycle=197)
    promoted, scaled = (
        [cycles("moe_gemm_1", hardware, **{**ADDED, **changes}) for hardware in (B200, slow)]
        for changes in ({}, {**SCALED, **TWO_BLOCKS})
    )
    assert promoted[1] > 1.15 * promoted[0]
    assert scaled[1] < 1.02 * scaled[0]


def test_a_cluster_that_may_fall_back_costs_nothing_that_is_seen():
    """It has no gain in the model either, whatever it would be: no figure says how many clusters a B200 holds."""
    split = {"split_rows": 16, "many_mma_m": 256, "many_cluster_w": 2}
    split |= {f"{n}_{i}": v for i in (1, 2) for n, v in (("swap", True), ("tile_t", 16))}
    for launch in ("moe_gemm_1_many", "moe_gemm_2_many"):
        with_it, without = (plan_of(launch, **split, fallback=on) for on in (True, False))
        assert with_it != without
        assert gemm("g", with_it, FULL, B200, FittedConstants(), 0) == gemm(
            "g", without, FULL, B200, FittedConstants(), 0
        )
    both = [
        (a["launch"], a["between"] - b["between"])
        for a, b in itertools.product(RECORDED["forms"], RECORDED["forms"])
        if a["fallback"] and a["changes"] == {**b["changes"], "fallback": True} and a["launch"] == b["launch"]
    ]
    assert {launch for launch, _ in both} >= {"moe_gemm_1_many", "moe_gemm_2_many"}
    assert all(abs(more) < 0.02 * cycles("moe_gemm_2", **ADDED) for _, more in both)
