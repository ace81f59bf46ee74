"""The family: which definitions it solves, its constraints and its size."""

import copy
import itertools
import json
from pathlib import Path

import pytest

from benchmarks.packaged_dataset.make import GEMM, MOE
from search_spaces import registry
from search_spaces.dataset import PATH
from search_spaces.moe_fp8_cpu import FAMILY
from search_spaces.parameters import SpaceError

PUBLIC = Path(__file__).resolve().parents[4] / "shared" / "flashinfer-trace" / "definitions" / "moe"


def document(name, folder=PATH / "definitions"):
    return json.loads(next(folder.rglob(f"{name}.json")).read_text())


@pytest.fixture
def definition():
    return document(MOE)


@pytest.fixture
def space(definition):
    return FAMILY.space(definition, "cpu")


def test_has_at_least_500_valid_configs(space):
    assert sum(1 for _ in space.enumerate(limit=500)) == 500


def test_is_the_space_for_the_packaged_moe(definition):
    assert registry.for_definition(definition, "cpu") is FAMILY


def test_sizes_come_from_the_definition(space):
    assert space.sizes == {
        "num_experts": 32,
        "num_local_experts": 8,
        "hidden_size": 512,
        "intermediate_size": 256,
        "top_k": 4,
        "n_group": 4,
        "topk_group": 2,
    }


def test_same_space_on_every_machine(space):
    """The number of cores of the machine that makes the space must not decide what is in it."""
    assert space.by_name["threads"].values == (1, 2)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"row_tile": 4, "micro_tile": "4x4"}, "register tile"),
        ({"dequantise": "tile", "col_tile": 256, "k_block": 512}, "256 KiB"),
        ({"dequantise": "tile", "row_tile": 4}, "fewer than 8 rows"),
        ({"layout": "masked", "gather": "tile", "combine": "scatter"}, "masked does what flat does"),
    ],
)
def test_constraint_reason(space, change, part):
    config = space.check({**space.default, **change})
    assert part in space.violation(config)


def test_every_constraint_rejects_something_of_its_own(space):
    """A constraint that another one implies would be noise."""
    broken = set()
    for values in itertools.product(*(p.values for p in space.parameters)):
        config = dict(zip(space.by_name, values, strict=True))
        failing = [i for i, c in enumerate(space.constraints) if not c.holds(config)]
        if len(failing) == 1:
            broken.add(failing[0])
    assert broken == set(range(len(space.constraints)))


def test_unknown_target(definition):
    with pytest.raises(SpaceError, match="no target 'sm_90a'; it has cpu"):
        FAMILY.space(definition, "sm_90a")


def test_other_op_is_refused():
    assert FAMILY.why_not(document(GEMM)) == "op_type is 'gemm', this family solves 'moe'"


@pytest.mark.parametrize(
    ("axis", "value", "part"),
    [
        ("hidden_size", 500, "not a multiple of the scale block"),
        ("num_experts", 30, "30 experts in 4 groups"),
        ("num_local_experts", 64, "64 local experts of 32"),
        ("num_experts", 4, "groups with 1 experts each"),
    ],
)
def test_impossible_sizes_are_refused(definition, axis, value, part):
    changed = copy.deepcopy(definition)
    changed["axes"][axis]["value"] = value
    assert part in FAMILY.why_not(changed)
    with pytest.raises(SpaceError, match="cannot solve"):
        FAMILY.space(changed, "cpu")


def test_variable_axis_and_other_inputs_are_refused(definition):
    variable = copy.deepcopy(definition)
    variable["axes"]["num_experts"] = {"type": "var"}
    assert "'num_experts' is not a positive constant" in FAMILY.why_not(variable)
    del definition["inputs"]["routing_bias"]
    assert "inputs are not those" in FAMILY.why_not(definition)


@pytest.mark.skipif(not PUBLIC.is_dir(), reason="the public flashinfer-trace copy is not beside the checkout")
def test_public_definitions():
    solved = {f.stem for f in PUBLIC.glob("*.json") if FAMILY.why_not(json.loads(f.read_text())) is None}
    assert solved == {
        "moe_fp8_block_scale_ds_routing_topk8_ng1_kg1_e384_h7168_i2048",
        "moe_fp8_block_scale_ds_routing_topk8_ng1_kg1_e48_h7168_i2048",
        "moe_fp8_block_scale_ds_routing_topk8_ng8_kg4_e32_h7168_i2048",
    }
    name = "moe_fp8_block_scale_ds_routing_topk8_ng8_kg4_e32_h7168_i2048"
    space = FAMILY.space(document(name, PUBLIC), "cpu")
    assert (space.sizes["hidden_size"], space.sizes["top_k"], space.sizes["n_group"]) == (7168, 8, 8)
