"""The MoE's input profiles give the routing that they name."""

import numpy as np
import pytest

from benchmarks.packaged_dataset.make import MoeSizes, moe_definition
from search_spaces.inputs.generator import InputGenerator
from search_spaces.moe_fp8.profiles import routing_profiles
from search_spaces.parameters import SpaceError

TOKENS = 60
SIZES = {
    "grouped": MoeSizes(512, 256, 32, 8, 4, 4, 2),
    "one group": MoeSizes(512, 256, 48, 16, 4),
    "renorm": MoeSizes(512, 256, 32, 32, 4, renorm=True),
}


def figures(profile, sizes, tokens=TOKENS, offset=8):
    definition = moe_definition(sizes)
    offset = 0 if sizes.renorm else offset
    workload = {"axes": {"seq_len": tokens}, "inputs": {"local_expert_offset": {"type": "scalar", "value": offset}}}
    generator = routing_profiles()
    made = generator.fill(profile, definition, workload, seed=5)
    again = generator.fill(profile, definition, workload, seed=5)
    assert all(np.array_equal(made[name], again[name]) for name in made)
    return generator.describe(profile, definition, workload, made)


@pytest.mark.parametrize("sizes", list(SIZES))
def test_hot_experts_get_every_token_and_other_local_ones_none(sizes):
    found = figures("hot:2", SIZES[sizes])
    if sizes == "renorm":  # all experts are local, so the other two of each token are too
        assert found["rows_per_expert"][:2] == [TOKENS, TOKENS]
    else:
        assert found["rows_per_expert"] == [TOKENS, TOKENS] + [0] * (SIZES[sizes].local - 2)
        assert found["rows"] == 2 * TOKENS
    assert found["busiest"] == TOKENS / found["rows"]


@pytest.mark.parametrize("sizes", ["grouped", "one group"])
def test_nobody_is_local_where_that_is_asked_for(sizes):
    assert figures("none_local", SIZES[sizes])["rows"] == 0


def test_tokens_that_are_alike_have_the_same_experts():
    assert set(figures("alike", SIZES["renorm"])["rows_per_expert"]) == {0, TOKENS}


@pytest.mark.parametrize("sizes", list(SIZES))
def test_a_larger_exponent_makes_the_busiest_expert_busier(sizes):
    flat, steep = (figures(profile, SIZES[sizes], 2000)["busiest"] for profile in ("uniform", "zipf:1.5"))
    assert steep > 1.5 * flat


def test_logits_of_bfloat16_do_not_tie():
    definition = moe_definition(SIZES["renorm"])
    made = routing_profiles().fill("uniform", definition, {"axes": {"seq_len": 50}, "inputs": {}}, 1)["routing_logits"]
    kept = (made.astype(np.float32).view(np.uint32) >> 16).astype(np.uint32)
    assert all(len(set(row)) == made.shape[1] for row in kept.tolist())


@pytest.mark.parametrize(
    ("profile", "why"),
    [
        ("zipf", "must be zipf:EXPONENT with a number"),
        ("zipf:steep", "must be zipf:EXPONENT with a number"),
        ("uniform:3", "must be uniform without a number"),
        ("warm:3", "unknown profile 'warm:3'; allowed are recorded, uniform, zipf:EXPONENT"),
        ("hot:9", "hot experts are 1 to 4"),
        ("hot:1.5", "hot experts are 1 to 4"),
    ],
)
def test_what_cannot_be_made_is_one_clear_line(profile, why):
    with pytest.raises(SpaceError, match=why):
        figures(profile, SIZES["grouped"])


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("PROFILES = {", "is not Python"),
        ("FILLS = ('x',)", "defines no PROFILES"),
        ("PROFILES = {'a': ''}\nFILLS = names()", "must be written out"),
        ("PROFILES = ['a']\nFILLS = ('x',)", "must be a dict"),
        ("PROFILES = {'a': ''}\nFILLS = ()", "must list the inputs"),
        ("PROFILES = {'a': ''}\nFILLS = ('x',)", "no function fill"),
    ],
)
def test_a_generator_is_read_without_running_it(source, why):
    with pytest.raises(SpaceError, match=why):
        InputGenerator("inputs.py", "raise SystemExit\n" + source)
