"""Launches whose clusters a GPU may replace by smaller ones, executed with both sizes side by side, without a GPU."""

from __future__ import annotations

import functools

import pytest

pytest.importorskip("cutlass", reason="nvidia-cutlass-dsl is not installed")

from search_spaces.moe_fp8_cute.routings import ROUTINGS, Routing
from search_spaces.moe_fp8_cute.solution.plans import launches
from search_spaces.moe_fp8_cute.stages import cases
from tests.search_spaces.moe_fp8_cute.conftest import CONFIGS, SMALL
from tests.search_spaces.moe_fp8_cute.mistakes import Mistake, begins, rewrite, without
from tests.search_spaces.moe_fp8_cute.test_mistakes import Before
from workers.emulator.judge import run_case
from workers.emulator.ptx import Instruction

QUICK = Routing("uneven", 45, "uneven", 1.5)
WEIGHTS_AS_M = {
    # maxima shared by two of four CTAs, which also share tokens; pairs that share weights
    **{"gather": "kernel", "swap_1": True, "mma_m_1": 64, "tile_t_1": 32, "tile_w_1": 128, "cluster_w_1": 4},
    **{"swap_2": True, "mma_m_2": 256, "tile_t_2": 32, "tile_w_2": 128, "cluster_w_2": 2, "cluster_t_2": 2},
}


@pytest.fixture(scope="module")
def built(build_solution, make_definition):
    """Tokens as M with pairs, then weights as M; two whole clusters in each grid."""
    tokens_as_m = CONFIGS["sm_100a"]["multicast"] | {"cluster_w_2": 2}
    changes = [{**c, "fallback": True} for c in (tokens_as_m, WEIGHTS_AS_M)]
    return build_solution("sm_100a", make_definition(**SMALL), changes, [64], ctas=8, keep_ptx=True)


def judge(built, routing: Routing, seed: int = 0) -> None:
    for row, config in enumerate(built.configs):
        (case,) = cases(config, built.space.sizes, "sm_100a", [routing])
        verdict = run_case(built.host, case, row, seed=seed)
        assert verdict.is_passed, f"row {row}: {verdict}"


def test_whole_and_smaller_clusters_leave_what_they_must(built):
    judge(built, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("routing", ROUTINGS, ids=lambda r: r.name)
def test_every_routing(built, routing):
    judge(built, routing, seed=1)


def test_both_sizes_are_asked_for_and_both_are_executed(built):
    for row, config in enumerate(built.configs):
        plans = dict(launches(config, built.space.sizes))
        for launch in built.host.call(30, row).launches:
            name = next((n for n in plans if launch.kernel.startswith(n)), None)
            if name is None:
                assert launch.fallback == 0
                continue
            plan = plans[name]
            assert (launch.cluster, launch.fallback) == (4, 2) == (plan.cluster, plan.least)
            assert launch.clusters() == [(0, 2), (2, 2), (4, 4)]


def size(i: Instruction) -> bool:
    """It reads the size of the cluster."""
    return "%cluster_nctaid.x" in i.operands


def says_whole(i: Instruction) -> Instruction:
    """The size of the cluster seems to be that of a whole one."""
    return Instruction("mov.u32", [i.operands[0], "4"], i.guard)


@pytest.fixture(scope="module")
def before(built):
    """What the kernels of a row find, made once for all mistakes."""
    return functools.cache(lambda row: Before(built, row, QUICK))


SHARED = begins("cp", "async", "bulk", "tensor", has=("multicast",))


@pytest.mark.parametrize(
    ("row", "kernel", "edit"),
    [
        (0, "moe_gemm_1", rewrite(size, says_whole)),
        (0, "moe_gemm_2", without(SHARED, -1)),
        pytest.param(1, "moe_gemm_1", without(SHARED, -1), marks=pytest.mark.slow),
        pytest.param(1, "moe_gemm_2", rewrite(size, says_whole, 0), marks=pytest.mark.slow),
    ],
    ids=["sizes are not told apart", "half of the tokens", "half of the tokens, swapped", "arrivals of a whole one"],
)
def test_a_mistake_is_seen(before, row, kernel, edit):
    assert before(row).verdict(Mistake("", "sm_100a", "", kernel, edit)) is not None
