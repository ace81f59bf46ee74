"""Both architectures run the same routing, scheduler, scales, quantisation, epilogues and combine: one source.

What passes on one GPU about these parts therefore holds for the other; only the main loops and producers differ.
"""

from __future__ import annotations

import pytest

pytest.importorskip("cutlass", reason="nvidia-cutlass-dsl is not installed")

from search_spaces.moe_fp8_cute.solution import (
    act_quant,
    combine,
    epilogue,
    gemm_sm90,
    gemm_sm100,
    kernel,
    permute,
    pipeline,
    scales,
    sched,
)
from search_spaces.moe_fp8_cute.solution import routing as routing_module
from search_spaces.moe_fp8_cute.solution.plans import plans
from search_spaces.moe_fp8_cute.space import FAMILY


@pytest.fixture(scope="module")
def spaces(make_definition) -> dict:
    return {target: FAMILY.space(make_definition(), target) for target in ("sm_90a", "sm_100a")}


def test_solutions_of_both_targets_differ_in_their_config_alone(spaces):
    hopper, blackwell = (dict(s.render([(None, s.default)])) for s in spaces.values())
    assert hopper.keys() == blackwell.keys()
    assert {name for name in hopper if hopper[name] != blackwell[name]} == {"config.py"}


def test_pipelines_and_gemms_are_built_of_the_same_parts(spaces):
    parts = {"routing": routing_module.Routing, "permute": permute.Permute, "act_quant": act_quant.ActQuant}
    parts |= {"finalize": combine.Finalize, "zero": combine.Zero, "cast": combine.Cast}
    mainloops = {"sm_90a": gemm_sm90.GroupedGemm, "sm_100a": gemm_sm100.GroupedGemmSm100}
    for target, space in spaces.items():
        everything = {**space.default, "gather": "kernel", "requant": "kernel", "combine": "atomic_f32"}
        found = set()
        for document in pipeline.kernels(everything, space.sizes, target) + pipeline.kernels(
            space.default, space.sizes, target
        ):
            made = kernel.Kernel(document).made
            found.add(document["kind"])
            if document["kind"] != "gemm":
                assert type(made) is parts[document["kind"]]
                continue
            assert type(made) is mainloops[target]
            assert type(made.table) is sched.TileTable
            assert type(made.scales) is scales.Scales
            assert type(made.epilogue).__module__ == epilogue.__name__
        assert found == {*parts, "gemm"}


def test_each_kind_of_epilogue_serves_both(spaces):
    """For every epilogue, a config of each architecture that takes it."""
    kinds = []
    for space in spaces.values():
        found = set()
        for swap in (False, True):
            tile = {"tile_t_1": 16, "tile_t_2": 16, "tile_w_1": 128} if swap else {}
            for requant, output in (("fused", "finalize"), ("kernel", "atomic_f32"), ("kernel", "atomic_bf16")):
                config = {**space.default, **tile, "swap_1": swap, "swap_2": swap}
                config |= {"requant": requant, "combine": output}
                found |= {type(epilogue.make_epilogue(plan)).__name__ for plan in plans(config, space.sizes)}
        kinds.append(found)
    assert kinds[0] == kinds[1] == {"RowAct", "SwapAct", "RowStore", "SwapRows", "Plain"}
