"""The space of the CuTe DSL MoE family: which definitions it takes, and that its constraints and sizes are right."""

import json
import random
from pathlib import Path

import pytest

from benchmarks.packaged_dataset.make import MoeSizes
from search_spaces.moe_fp8_cute.solution.budget import REGISTERS_PER_SM, SMEM_PER_SM
from search_spaces.moe_fp8_cute.solution.plans import batch_rows, plans, row_align, row_capacity
from search_spaces.moe_fp8_cute.solution.workspace import ALIGN, sections
from search_spaces.moe_fp8_cute.space import DEFAULT, FAMILY, sizes_of
from search_spaces.moe_fp8_cute.starts import HOPPER
from search_spaces.parameters import SpaceError
from tests.search_spaces.moe_fp8 import definitions as moe
from tuner.settings import DEFAULT_BOUNDS

DEFINITIONS = Path(__file__).parents[4] / "shared" / "flashinfer-trace" / "definitions"
MAIN = "moe_fp8_block_scale_ds_routing_topk8_ng8_kg4_e32_h7168_i2048"
SIZES = {
    "hidden": 7168,
    "intermediate": 2048,
    "experts": 256,
    "local_experts": 32,
    "top_k": 8,
    "routing": "deepseek",
    "groups": 8,
    "topk_groups": 4,
    "power_of_two": False,
}


def definition(name: str = MAIN, folder: str = "moe") -> dict:
    path = DEFINITIONS / folder / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"{path} is not there: the trace is not part of the repository")
    return json.loads(path.read_text())


def made_up() -> dict:
    """A definition with the numbers of the main one that needs no dataset."""
    return moe.definition(MoeSizes(7168, 2048, 256, 32, 8, 8, 4), moe.as_tuple)


@pytest.fixture(scope="module")
def space():
    return FAMILY.space(made_up(), "sm_90a")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (MAIN, SIZES),
        (
            "moe_fp8_block_scale_ds_routing_topk8_ng1_kg1_e384_h7168_i2048",
            SIZES | {"experts": 384, "local_experts": 384, "groups": 1, "topk_groups": 1},
        ),
        (
            "moe_fp8_block_scale_ds_routing_topk8_ng1_kg1_e48_h7168_i2048",
            SIZES | {"experts": 384, "local_experts": 48, "groups": 1, "topk_groups": 1},
        ),
        (
            "moe_fp8_block_scale_renorm_topk10_e128_h2048_i512",
            {"hidden": 2048, "intermediate": 512, "experts": 128, "local_experts": 128, "top_k": 10}
            | {"routing": "renorm", "groups": 1, "topk_groups": 1, "power_of_two": False},
        ),
        (
            "moe_fp8_block_scale_renorm_topk8_e128_h2048_i768",
            {"hidden": 2048, "intermediate": 768, "experts": 128, "local_experts": 128, "top_k": 8}
            | {"routing": "renorm", "groups": 1, "topk_groups": 1, "power_of_two": False},
        ),
        (
            "moe_fp8_block_scale_renorm_topk8_e128_h4096_i1536",
            {"hidden": 4096, "intermediate": 1536, "experts": 128, "local_experts": 128, "top_k": 8}
            | {"routing": "renorm", "groups": 1, "topk_groups": 1, "power_of_two": False},
        ),
    ],
)
def test_sizes_of_every_block_scale_definition(name, expected):
    assert FAMILY.why_not(definition(name)) is None
    assert sizes_of(definition(name)) == expected


def test_other_definitions_are_refused_with_a_reason():
    if not DEFINITIONS.is_dir():
        pytest.skip("the trace is not part of the repository")
    for path in DEFINITIONS.glob("*/*.json"):
        if not path.name.startswith("moe_fp8_block_scale"):
            why = FAMILY.why_not(json.loads(path.read_text()))
            assert why, path.name
            assert "\n" not in why, path.name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["axes"]["hidden_size"].update(value=7100), "hidden_size 7100 is not"),
        (lambda d: d["axes"]["gemm1_out_size"].update(value=2048), "twice the intermediate"),
        (lambda d: d["inputs"]["gemm1_weights"].update(dtype="bfloat16"), "takes float8_e4m3fn"),
        (lambda d: d["inputs"].pop("routing_bias"), "inputs are not those"),
        (lambda d: d.update(reference=""), "top-k is neither"),
        (lambda d: d.update(op_type="gemm"), "solves 'moe'"),
        (lambda d: d["outputs"]["output"].update(dtype="float16"), "not one bfloat16"),
    ],
)
def test_a_definition_that_does_not_fit_is_named(change, message):
    changed = made_up()
    change(changed)
    assert message in FAMILY.why_not(changed)


def test_unknown_target_is_refused():
    with pytest.raises(SpaceError, match="sm_70"):
        FAMILY.space(made_up(), "sm_70")


def test_space_has_thousands_of_valid_configs_and_every_value_occurs(space):
    assert sum(1 for _ in space.enumerate(limit=5000)) == 5000
    rng = random.Random(3)
    seen = [space.sample(rng) for _ in range(1500)]
    for parameter in space.parameters:
        assert {c[parameter.name] for c in seen} == set(parameter.values), parameter.name


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tile_t_1": 256}, "64 rows of A per warpgroup"),
        ({"tile_t_1": 128}, "GEMM 1"),
        ({"swap_1": True, "tile_t_1": 128}, "column scales do not fit"),
        ({"swap_1": True, "tile_w_1": 64, "groups_1": 2}, "whole MMAs of 64"),
        ({"split_k_1": 2}, "SwiGLU needs the full sum"),
        ({"split_k_2": 2}, "added by the atomics"),
        ({"multicast_1": "tokens"}, "cp.async cannot multicast"),
        ({"gather": "beside", "swap_1": True, "tile_t_1": 16}, "tokens are M"),
        ({"clear": "along"}, "only an output that GEMM 2 adds to"),
        ({"feed": "tiles", "early_weights": False}, "must start beside GEMM 1"),
        ({"feed": "tiles", "requant": "kernel"}, "must write what GEMM 2 reads"),
        ({"feed": "tiles", "swap_2": True, "tile_t_2": 16}, "the same ones in both GEMMs"),
        ({"feed": "tiles", "combine": "atomic_bf16"}, "must be cleared before the last tiles"),
        ({"split_rows": 16}, "the other launch has tokens as M"),
        ({"split_rows": 64, "crowded_rows": 64}, "crowded_rows takes the place of split_rows"),
        ({"crowded_rows": 64}, "have no effect"),
        ({"split_rows": 64, "crowded_rows": 256, "crowded_total": 256}, "one of them alone already has"),
        ({"split_rows": 16, "crowded_rows": 64, "gather": "beside", "multicast_1": "tokens"}, "cannot multicast"),
        ({"stages_1": 12}, "GEMM 1"),
        ({"stages_2": 12}, "GEMM 2"),
        ({"pdl": False}, "without programmatic launch"),
        ({"alternate": True}, "take turns"),
        ({"gather": "kernel", "groups_1": 2, "tile_t_1": 256}, "GEMM 1"),
        ({"groups_1": 2, "tile_t_1": 256, "tile_w_1": 128, "stages_1": 4}, "GEMM 1"),
    ],
)
def test_constraints_name_the_reason(space, change, reason):
    config = space.check({**DEFAULT, **change})
    assert reason in space.violation(config)


def test_a_second_n_without_wider_tiles_is_refused_with_a_reason_that_stands_alone():
    """Of several broken rules the one that says most of the change is named: it must not lean on another one."""
    blackwell = FAMILY.space(made_up(), "sm_100a")
    reason = blackwell.violation({**blackwell.default, "narrow": 16}, blackwell.default)
    assert reason == "only swapped tiles with more token columns can be multiplied with fewer"


def test_plans_of_valid_configs_fit_the_hardware(space):
    rng = random.Random(5)
    for _ in range(300):
        config = space.sample(rng)
        for plan in plans(config, space.sizes):
            assert plan.ctas_per_sm * (plan.smem_bytes + 1024) <= SMEM_PER_SM
            low, high = plan.registers
            # The warpgroups can only trade what the CTA was launched with; more would hang in setmaxnreg.
            launch = min(255, REGISTERS_PER_SM // plan.ctas_per_sm // plan.threads // 8 * 8)
            if low != high:
                assert 128 * low + 128 * plan.groups * high <= launch * plan.threads
            assert high % 8 == 0
            assert plan.weight_tiles * plan.tile_w == plan.n
            assert plan.ctas % plan.cluster == 0


@pytest.mark.parametrize("layout", ["flat", "batched"])
def test_row_capacity_holds_for_random_routings(space, layout):
    rng = random.Random(11)
    for _ in range(200):
        config = space.sample(rng) | {"layout": layout}
        tokens = rng.choice([1, 2, 3, 17, 130, 500])
        align, experts = row_align(config), SIZES["local_experts"]
        hot = rng.sample(range(experts), rng.randint(1, experts))
        counts = [0] * experts
        for _ in range(tokens):
            for expert in rng.sample(hot, min(len(hot), SIZES["top_k"])):
                counts[expert] += 1
        if layout == "flat":
            needed = sum(-(-c // align) * align for c in counts)
        else:
            needed = experts * batch_rows(config, tokens)
        capacity = row_capacity(config, SIZES, tokens)
        assert needed <= capacity
        assert capacity % 8 == 0


def test_workspace_sections_do_not_overlap_and_hold_their_tensors(space):
    rng = random.Random(2)
    for _ in range(50):
        config = space.sample(rng)
        tokens = rng.choice([1, 77, 4096])
        rows = row_capacity(config, SIZES, tokens)
        offsets = sections(config, SIZES, tokens, rows)
        starts = sorted(offsets.values())
        assert starts == list(offsets.values())
        assert all(s % ALIGN == 0 for s in starts)
        sizes = {n: e - s for (n, s), e in zip(offsets.items(), starts[1:], strict=False)}
        assert sizes["act"] >= rows * SIZES["intermediate"]
        assert sizes["token_row"] >= 4 * tokens * SIZES["top_k"]
        assert ("partial" in sizes) == (config["requant"] == "kernel")
        assert ("x_rows" in sizes) == (config["gather"] in ("kernel", "many", "beside"))
        assert ("ready" in sizes) == (config["gather"] == "beside")
        if "ready" in sizes:
            # A tile's counter is behind the claims; the last tile begins at most 64 rows before the end.
            assert sizes["ready"] >= 4 * (1 + rows // 64)
        assert ("queue" in sizes) == (config["feed"] == "tiles")
        if "queue" in sizes:
            # 64 places ahead of the tiles' counters (feed.FINISHED).
            assert sizes["queue"] >= 4 * (64 + rows // 64)
        assert ("y" in sizes) == (config["combine"] == "finalize")


@pytest.mark.parametrize("target", FAMILY.targets)
def test_starts_cover_every_size(target):
    space = FAMILY.space(made_up(), target)
    assert all(any(s.suits([size]) for s in space.starts) for size in (1, 57, 256, 257, 901, 4096, 14_107))


def test_every_hopper_start_is_tried_once_and_few_in_a_regime(space):
    """A start that breaks a constraint is left out without a word; every one costs a trial in each sweep."""
    assert [dict(s.config) for s in space.starts] == [{**DEFAULT, **changes} for _, _, changes in HOPPER]
    assert len({space.config_hash(s.config) for s in space.starts}) == len(HOPPER)
    edges = (0, *(bound + 1 for bound in DEFAULT_BOUNDS))
    for low, high in zip(edges, (*DEFAULT_BOUNDS, 1 << 20), strict=True):
        tried = [s for s in space.starts if s.smallest <= high and (s.largest is None or low <= s.largest)]
        assert len(tried) <= 11, (low, high)


def test_sources_are_complete_and_render(space):
    files = space.variant_sources(space.default)
    assert {"main.py", "build.py", "host.py", "config.py", "routing.py"} <= set(files)
    names = dict.fromkeys(files)
    exec(files["config.py"], names)
    assert names["select"](1) == space.default
    assert names["TARGET"] == "sm_90a"


def test_prefill_on_blackwell_begins_with_pairs():
    """As the default of all sizes, pairs would fill half of their tiles at 1 to 80 tokens."""
    space = FAMILY.space(made_up(), "sm_100a")
    assert [space.at([tokens]).default["mma_m_1"] for tokens in (1, 80, 2048, 2049, 14107)] == [128, 128, 128, 256, 256]
    assert [bound for bound, _ in space.default_table] == [2048, None]
    _, pairs = space.default_table[1]
    for plan in plans(pairs, space.sizes):
        assert plan.mma_shape == (256, 256)
        assert plan.stages * plan.stage_bytes >= 128 << 10
    assert FAMILY.space(made_up(), "sm_90a").defaults == ()


def test_starts_for_blackwell_keep_128_kb_on_their_way():
    """Less, and a TMA does not reach the memory's rate; that is what decides at few tokens."""
    space = FAMILY.space(made_up(), "sm_100a")
    for start in space.starts:
        for plan in plans(start.config, space.sizes):
            assert plan.stages * plan.stage_bytes * plan.ctas_per_sm >= 128 << 10, (start, plan.role)


@pytest.mark.parametrize("target", FAMILY.targets)
def test_random_draws_arrive(target):
    """Rules of sm_100a that were decided last ended 119 of 120 draws, and searches knew 64 configs near the default."""
    walk, rng = FAMILY.space(made_up(), target).walk, random.Random(0)
    assert walk.size(rng) > 1e6
    for _ in range(40):
        walk.sample(rng)
    assert not walk.is_sparse
