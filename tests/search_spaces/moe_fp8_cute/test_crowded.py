"""One choice for a whole call, made on the device: all experts by the launches for few rows, or divided by their rows.

The configs have tokens as M in both forms, of other sizes, or few rows swapped; the bound of a call is tried from both
sides, by an expert with exactly as many rows and by one with one more.
"""

from __future__ import annotations

import pytest

pytest.importorskip("cutlass", reason="nvidia-cutlass-dsl is not installed")

from search_spaces.moe_fp8_cute.routings import ROUTINGS, Routing
from search_spaces.moe_fp8_cute.stages import cases
from tests.search_spaces.moe_fp8_cute.conftest import CTAS, SMALL
from workers.emulator.judge import run_case

SPLIT, CROWDED = 8, 32
BOTH = {"split_rows": SPLIT, "crowded_rows": CROWDED, "combine": "atomic_bf16"}
CONFIGS = {
    "sm_90a": {
        "permuted": {
            **BOTH,
            **{"gather": "many", "tile_w_1": 128, "tile_w_2": 128, "stages_2": 4, "ctas_per_sm_2": 2},
            **{"many_multicast": "weights"},
        },
        "beside": {
            **BOTH,
            **{"gather": "beside", "clear": "along", "multicast_1": "weights", "multicast_2": "weights"},
            **{"tile_t_1": 128, "groups_1": 2, "stages_1": 4, "tile_t_2": 128, "groups_2": 2, "stages_2": 6},
            **{"tile_w_2": 128, "many_multicast": "weights"},
        },
        "fed": {
            **BOTH,
            **{"feed": "tiles", "gather": "beside", "clear": "along", "tile_w_1": 128, "tile_w_2": 128},
            **{"stages_2": 4, "ctas_per_sm_2": 2, "many_multicast": "weights"},
        },
        "swapped": {
            **BOTH,
            **{"swap_1": True, "tile_t_1": 16, "tile_w_1": 128, "groups_1": 2, "narrow": 8, "narrow_tiles": 2},
            **{"swap_2": True, "tile_t_2": 16, "tile_w_2": 128, "stages_2": 3, "many_tile_t": 128, "small_tiles": 2},
        },
    },
    "sm_100a": {"pairs": {**BOTH, "tile_w_2": 128, "many_mma_m": 256, "handover": True}},
}
BOUND = (Routing("at the bound", CROWDED, "one_expert"), Routing("one above", CROWDED + 1, "one_expert"))
QUICK = {"sm_90a": ("permuted",), "sm_100a": ("pairs",)}
"""Those of the default run."""


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def built(request, build_solution, make_definition):
    table = CONFIGS[request.param]
    bounds = list(range(1, len(table)))
    made = build_solution(request.param, make_definition(**SMALL), [*table.values()], bounds, ctas=CTAS, keep_ptx=True)
    made.names = list(table)
    return made


def judge(built, name: str, routings) -> None:
    row = built.names.index(name)
    for case in cases(built.configs[row], built.space.sizes, built.space.target, routings):
        verdict = run_case(built.host, case, row)
        assert verdict.is_passed, f"{name}, {case.name}: {verdict}"


def test_every_kernel_serves_its_experts_on_both_sides_of_the_bound(built):
    for name in QUICK[built.space.target]:
        judge(built, name, BOUND)
