"""The kernels' own code, executed without a GPU, with numbers.

The compiler's PTX runs on the emulator (workers/emulator) with the arguments that the host function passes. Each kernel
of the pipeline must leave what stages.py computes from what it finds; barriers, copies, proxies and tensor memory are
checked on the way.
"""

from __future__ import annotations

import pytest

pytest.importorskip("cutlass", reason="nvidia-cutlass-dsl is not installed")

from search_spaces.moe_fp8_cute.routings import ROUTINGS, Routing
from search_spaces.moe_fp8_cute.stages import cases
from tests.search_spaces.moe_fp8_cute.conftest import CTAS, SMALL
from workers.emulator.judge import EmulatedStatus, run_case
from workers.emulator.pipeline import Module, fresh_memory, steps

QUICK = (Routing("uneven", 21, "uneven", 1.0),)


def judge(built, row: int, routings, seed: int = 0) -> None:
    """Every kernel of one config, on every routing."""
    for case in cases(built.configs[row], built.space.sizes, built.space.target, routings):
        verdict = run_case(built.host, case, row, seed=seed)
        assert verdict.is_passed, f"{built.names[row]}, {case.name}: {verdict}"


def test_every_kernel_leaves_what_it_must(small_solution):
    for row in range(len(small_solution.configs)):
        judge(small_solution, row, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("routing", ROUTINGS, ids=lambda r: r.name)
def test_every_routing(small_solution, routing):
    for row in range(len(small_solution.configs)):
        judge(small_solution, row, [routing])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_the_order_of_warps_and_copies_does_not_matter(small_solution, seed):
    for row in range(len(small_solution.configs)):
        judge(small_solution, row, QUICK, seed)


def test_permuting_beside_gemm_1_changes_no_bit(build_solution, make_definition):
    """With the finalize kernel every sum has one order: rows that come another way must give the same bytes."""
    tiles = {f"{name}_{i}": value for i in (1, 2) for name, value in (("tile_t", 128), ("groups", 2), ("stages", 4))}
    changes = [{**tiles, "gather": gather} for gather in ("kernel", "beside")]
    built = build_solution("sm_90a", make_definition(**SMALL), changes, [128], ctas=CTAS, keep_ptx=True)
    outputs = []
    for row, config in enumerate(built.configs):
        (case,) = cases(config, built.space.sizes, "sm_90a", [Routing("odd ends", 140, "uneven", 2.0)])
        call = built.host.call(case.size, row, case.offset, case.scaling)
        module = Module(built.folder / "artifacts" / f"{call.function}.ptx")
        memory = fresh_memory(call, dict(case.inputs))
        assert sum(1 for _ in steps(module, call, memory)) == len(call.launches)
        outputs.append(memory.by_name["out"].data.copy())
    assert len(set(map(bytes, outputs))) == 1


@pytest.mark.slow
def test_launches_by_rows_are_fed_tile_by_tile(build_solution, make_definition):
    """Both launches of GEMM 2 have a queue of their own, and either one of GEMM 1 may be the one that clears."""
    changes = {
        **{
            "feed": "tiles",
            "clear": "along",
            "gather": "beside",
            "combine": "atomic_bf16",
            "split_rows": 8,
            "narrow": 8,
        },
        **{"swap_1": True, "tile_t_1": 16, "tile_w_1": 128, "groups_1": 2, "stages_1": 3, "narrow_tiles": 2},
        **{"swap_2": True, "tile_t_2": 16, "tile_w_2": 128, "stages_2": 3, "many_tile_w_2": 128},
    }
    built = build_solution("sm_90a", make_definition(**SMALL), [changes], [], ctas=CTAS, keep_ptx=True)
    built.names = ["fed"]
    judge(built, 0, ROUTINGS)


def test_a_call_that_the_host_refuses_is_no_pass(small_solution):
    (case,) = cases(small_solution.configs[0], small_solution.space.sizes, small_solution.space.target, QUICK)
    too_many = case.__class__("too many", 1 << 20, case.inputs, case.check)
    verdict = run_case(small_solution.host, too_many, 0)
    assert verdict.status is EmulatedStatus.NOT_BUILT
    assert "1048576 tokens" in verdict.message
