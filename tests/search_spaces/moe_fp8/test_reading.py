"""What the MoE families read from a definition, and that a wrong reading is seen before a sweep."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.packaged_dataset.make import GEMM, MOE, RMSNORM, MoeSizes, moe_definition
from search_spaces.constants import Constants
from search_spaces.dataset import PATH
from search_spaces.moe_fp8.proof import LARGEST_WEIGHTS, compare, prove
from search_spaces.moe_fp8.reading import Reading, read
from search_spaces.moe_fp8_cpu import FAMILY as CPU
from search_spaces.moe_fp8_cute.space import FAMILY as CUTE
from search_spaces.parameters import SpaceError
from tests.search_spaces.moe_fp8.definitions import TEN, as_tuple, definition, not_renormalised, renorm, without_groups

torch = pytest.importorskip("torch")

PUBLIC = Path(__file__).resolve().parents[4] / "shared" / "flashinfer-trace" / "definitions" / "moe"
PACKAGED = Reading(512, 256, 32, 8, 4, "deepseek", 4, 2)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """The matrices are small: on a busy machine two threads take ten times as long as one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def expected(s: MoeSizes) -> Reading:
    routing = "renorm" if s.renorm else "deepseek"
    return Reading(s.hidden, s.intermediate, s.experts, s.local, s.top_k, routing, s.groups, s.topk_groups)


def packaged(op_type: str, name: str) -> dict:
    return json.loads((PATH / "definitions" / op_type / f"{name}.json").read_text(encoding="utf-8"))


def test_the_packaged_definition_is_read_as_it_is_meant():
    """A pattern that takes the first number of `TOP_K, N_GROUP, TOPK_GROUP = 4, 4, 2` says 4 kept groups."""
    assert read(packaged("moe", MOE)) == PACKAGED
    assert prove(packaged("moe", MOE)).agrees


@pytest.mark.parametrize(("sizes", "write"), TEN, ids=lambda v: getattr(v, "__name__", None) or v.name)
def test_other_numbers_are_read_however_they_are_written(sizes, write):
    made = definition(sizes, write)
    assert read(made) == expected(sizes)
    proof = compare(made, read(made))
    assert proof.agrees, proof.detail


@pytest.mark.skipif(not PUBLIC.is_dir(), reason=f"the public definitions are not at {PUBLIC}")
def test_public_definitions_are_read_as_they_are_meant():
    """Their weights have up to 17 billion values: hidden and intermediate size are made smaller in their sources."""
    found = sorted(PUBLIC.glob("moe_fp8_block_scale_*.json"))
    assert len(found) == 6
    for path in found:
        made = json.loads(path.read_text(encoding="utf-8"))
        proof = compare(made, read(made))
        assert proof.agrees, f"{path.name}: {proof.detail}"


def test_both_families_take_what_they_can_and_name_what_they_cannot():
    for sizes, write in TEN:
        made = definition(sizes, write)
        assert CUTE.why_not(made) is None
        assert CPU.why_not(made) == (
            "the routing is a renormalised softmax, this family has DeepSeek's" if sizes.renorm else None
        )
        CUTE.space(made, "sm_90a")


@pytest.mark.parametrize(
    "wrong",
    [{"topk_groups": 4}, {"topk_groups": 1}, {"groups": 8}, {"groups": 2}, {"top_k": 3}, {"top_k": 5}],
    ids=str,
)
def test_a_wrong_routing_constant_is_seen_and_named(wrong):
    proof = compare(packaged("moe", MOE), replace(PACKAGED, **wrong))
    assert proof.agrees is False
    (name,) = wrong
    assert f"agrees with {name} {getattr(PACKAGED, name)}" in proof.detail
    assert "\n" not in proof.detail


def test_a_wrong_constant_is_seen_in_a_definition_that_is_made_smaller():
    sizes = MoeSizes(7168, 2048, 256, 32, 8, 8, 4)
    made = definition(sizes, as_tuple)
    assert 3 * sizes.local * sizes.hidden * sizes.intermediate > LARGEST_WEIGHTS
    assert compare(made, expected(sizes)).agrees
    assert compare(made, replace(expected(sizes), topk_groups=8)).agrees is False


def test_numbers_that_mean_two_things_do_not_make_a_wrong_refusal():
    """32 experts beside 32 scale blocks, top-k 8 beside 8 blocks: as the number of either, the other must stay."""
    sizes = MoeSizes(2048, 1024, 256, 32, 8, 8, 4)
    head = "assert hidden_states.shape == (T, HIDDEN)"
    source = as_tuple(sizes).replace(head, f"{head}\n    assert gemm2_weights_scale.shape == (32, 16, 8)")
    assert compare(moe_definition(sizes, source), expected(sizes)).agrees


def test_another_op_with_the_same_inputs_is_refused():
    sizes = MoeSizes(512, 512, 64, 64, 4, renorm=True)
    assert compare(definition(sizes, renorm), expected(sizes)).agrees
    assert compare(definition(sizes, not_renormalised), expected(sizes)).agrees is False


def test_a_reference_that_does_not_run_here_proves_nothing():
    made = moe_definition() | {"reference": "TOP_K, N_GROUP, TOPK_GROUP = 4, 4, 2\nraise RuntimeError('needs a GPU')"}
    proof = prove(made)
    assert proof.agrees is None
    assert "needs a GPU" in proof.detail


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("TOP_K = 4\nN_GROUP = 4", "no TOPK_GROUP"),
        ("TOP_K = 4\nTOPK_GROUP = 4", "no N_GROUP"),
        ("TOP_K = 4\ntopk = 5", "several values: TOP_K = 4, topk = 5"),
        ("TOP_K = 4 if fast else 5", "top-k is neither"),
        ("TOP_K = 4\nTOP_K += 1", "top-k is neither"),
        ("TOP_K = 2.5", "not a whole number"),
        ("TOP_K, N_GROUP, TOPK_GROUP = 4, 3, 2", "32 experts in 3 groups"),
        ("TOP_K, N_GROUP, TOPK_GROUP = 20, 4, 2", "top-k is 20 of 2 groups"),
        ("TOP_K = (", "not Python"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(source, message):
    with pytest.raises(SpaceError) as refused:
        read(moe_definition() | {"reference": source})
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (MoeSizes(640, 512, 32, 8, 4), "hidden_size is 640"),
        (MoeSizes(512, 512, 48, 8, 4), "48 experts do not divide"),
        (MoeSizes(512, 512, 96, 8, 4, 3, 2), "3 groups of experts"),
        (MoeSizes(33024, 512, 32, 8, 4), "hidden_size is 33024"),
        (MoeSizes(512, 512, 64, 8, 40), "top-k is 40"),
    ],
)
def test_what_the_gpu_kernels_cannot_do_is_refused_in_one_line(sizes, message):
    assert message in CUTE.why_not(definition(sizes, as_tuple))


def test_groups_of_scales_are_no_groups_of_experts():
    """FP8 code calls its scale blocks groups as well."""
    sizes = MoeSizes(512, 256, 32, 8, 4, 4, 2)
    assert read(moe_definition(sizes, as_tuple(sizes) + "\nnum_groups = HIDDEN // 128 + 1\n")) == PACKAGED
    plain = MoeSizes(512, 256, 32, 8, 4)
    assert read(moe_definition(plain, without_groups(plain) + "\nnum_groups = HIDDEN // 64\n")) == expected(plain)


def test_other_packaged_definitions_have_nothing_to_misread():
    for op_type, name in (("gemm", GEMM), ("rmsnorm", RMSNORM)):
        for family in (CUTE, CPU):
            assert "solves 'moe'" in family.why_not(packaged(op_type, name))


def test_extents_defaults_and_arguments():
    made = {
        "axes": {"E": {"type": "const", "value": 6}, "T": {"type": "var"}},
        "inputs": {"x": {"shape": ["T", "E"]}, "s": {"shape": None}},
        "reference": """
def pick(x, k, size=3, *, kept=1): ...
def run(x, s):
    tokens, experts = x.shape
    also = x.size(-1) * 2
    pick(x, 4, kept=min(7, experts))
    for step in range(3): ...
    loose = pick(x, 4)
    huge = 2 ** 1000000
    size_of_unknown = y.shape[0]
    broken = 1 // 0
""",
    }
    constants = Constants(made)
    known = {"experts": 6, "also": 12, "k": 4, "size": 3, "kept": 6}
    assert {name: constants.value(name) for name in known} == known
    for name in ("tokens", "step", "loose", "huge", "size_of_unknown", "broken", "nowhere"):
        assert constants.value(name) is None


def test_the_solution_gets_what_was_read():
    assert CUTE.space(packaged("moe", MOE), "sm_90a").sizes == asdict(PACKAGED)
