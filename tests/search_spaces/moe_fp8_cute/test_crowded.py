"""One choice for a whole call, made on the device: all experts by the launches for few rows, or divided by their rows.

The configs have tokens as M in both forms, of other sizes, or few rows swapped; the bound of a call is tried from both
sides, by an expert with exactly as many rows and by one with one more. ``summed`` asks for the rows of all experts
above the bound, together: two have exactly ``TOTAL``, or one more.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest

pytest.importorskip("cutlass", reason="nvidia-cutlass-dsl is not installed")

from search_spaces.moe_fp8_cute.routings import ROUTINGS, Routing
from search_spaces.moe_fp8_cute.space import DEFAULT, FAMILY
from search_spaces.moe_fp8_cute.stages import MoeProblem, cases, chosen
from tests.search_spaces.moe_fp8_cute.conftest import CTAS, SMALL
from tests.search_spaces.moe_fp8_cute.mistakes import Edit, Mistake, rewrite
from tests.search_spaces.moe_fp8_cute.test_emulated import judge
from tests.search_spaces.moe_fp8_cute.test_mistakes import Before
from workers.emulator.ptx import Instruction

SPLIT, CROWDED = 8, 32
BOTH = {"split_rows": SPLIT, "crowded_rows": CROWDED, "combine": "atomic_bf16"}
PERMUTED = {
    **BOTH,
    **{"gather": "many", "tile_w_1": 128, "tile_w_2": 128, "stages_2": 4, "ctas_per_sm_2": 2},
    **{"many_multicast": "weights"},
}
TOTAL = 77
SUMMED = {**PERMUTED, "crowded_total": 256}
"""Emulated with ``TOTAL`` in place of 256."""
OTHERS = {
    "sm_90a": {
        "beside": {
            **BOTH,
            **{"gather": "beside", "clear": "along", "multicast_1": "weights", "multicast_2": "weights"},
            **{"tile_t_1": 128, "groups_1": 2, "stages_1": 4, "tile_t_2": 128, "groups_2": 2, "stages_2": 6},
            **{"tile_w_2": 128, "many_multicast": "weights"},
        },
        "fed": {**PERMUTED, "feed": "tiles", "gather": "beside", "clear": "along"},
        "swapped": {
            **BOTH,
            **{"swap_1": True, "tile_t_1": 16, "tile_w_1": 128, "groups_1": 2, "narrow": 8, "narrow_tiles": 2},
            **{"swap_2": True, "tile_t_2": 16, "tile_w_2": 128, "stages_2": 3, "many_tile_t": 128, "small_tiles": 2},
        },
        "fed, summed": {**SUMMED, "feed": "tiles", "gather": "beside", "clear": "along"},
    },
    "sm_100a": {
        "pairs": {**BOTH, "tile_w_2": 128, "many_mma_m": 256, "handover": True},
        "summed": {**BOTH, "tile_w_2": 128, "crowded_total": 256},
    },
}
AT_THE_BOUND = Routing("at the bound", CROWDED, "one_expert")
ONE_ABOVE = Routing("one above", CROWDED + 1, "one_expert")
AT_THE_TOTAL = Routing("several busy", 53, "uneven", 2.5)
"""Rows of the experts: 10, 10, 44 and 33, so 77 of those above ``CROWDED``."""
ABOVE_THE_TOTAL = Routing("several busy", 50, "uneven", 2.5)
"""28, 42, 36 and 12: 78."""
EDGES = (AT_THE_BOUND, ONE_ABOVE, AT_THE_TOTAL, ABOVE_THE_TOTAL, Routing("one row", 1, "one_expert"))


def build(build_solution, make_definition, target: str, table: dict[str, dict]):
    bounds = list(range(1, len(table)))
    made = build_solution(
        *(target, make_definition(**SMALL), [*table.values()], bounds),
        **{"ctas": CTAS, "keep_ptx": True, "instead": {"crowded_total": TOTAL}},
    )
    made.names = list(table)
    return made


@pytest.fixture(scope="module")
def permuted(build_solution, make_definition):
    return build(build_solution, make_definition, "sm_90a", {"permuted": PERMUTED, "summed": SUMMED})


@pytest.mark.parametrize("routing", [AT_THE_BOUND, ONE_ABOVE], ids=lambda r: r.name)
def test_every_kernel_serves_its_experts_on_both_sides_of_the_bound(permuted, routing):
    judge(permuted, 0, [routing])


@pytest.mark.parametrize(
    "routing", [pytest.param(AT_THE_TOTAL, marks=pytest.mark.slow), ABOVE_THE_TOTAL], ids=lambda r: f"{r.tokens} tokens"
)
def test_the_rows_of_all_busy_experts_together_decide(permuted, routing):
    judge(permuted, 1, [routing])


@pytest.mark.parametrize(("routing", "rows"), [(AT_THE_TOTAL, TOTAL), (ABOVE_THE_TOTAL, TOTAL + 1)])
def test_the_busy_experts_of_these_inputs_are_at_the_total_and_one_above_it(make_definition, routing, rows):
    """Else what is emulated here says nothing of the total."""
    sizes = FAMILY.sizes(make_definition(**SMALL))
    (case,) = cases({**DEFAULT, **SUMMED}, sizes, "sm_90a", [routing])
    experts, _ = chosen(MoeProblem({**DEFAULT, **SUMMED}, sizes, "sm_90a", routing.tokens), dict(case.inputs))
    counts = [int((experts == case.offset + e).sum()) for e in range(sizes["local_experts"])]
    assert sum(count for count in counts if count > CROWDED) == rows
    assert len([count for count in counts if count > CROWDED]) == 2


def compares(i: Instruction) -> bool:
    """The busiest expert with the bound, which decides between ``SPLIT`` and the bound itself."""
    return i.opcode == "setp.gt.s32" and i.operands[-1] == str(CROWDED)


def selects(i: Instruction) -> bool:
    return i.opcode == "selp.b32" and i.operands[1:3] == [str(SPLIT), str(CROWDED)]


def bound_is(rows: int) -> Edit:
    """A kernel has another bound."""

    def compare(i: Instruction) -> Instruction:
        return replace(i, operands=[*i.operands[:2], str(rows)])

    def select(i: Instruction) -> Instruction:
        return replace(i, operands=[*i.operands[:2], str(rows), i.operands[3]])

    return lambda kernel: rewrite(selects, select)(rewrite(compares, compare)(kernel))


def other_class(i: Instruction) -> Instruction:
    """Of the two bounds the one for the other calls."""
    return replace(i, operands=[i.operands[0], *reversed(i.operands[1:3]), i.operands[3]])


def permutes_nothing(i: Instruction) -> Instruction:
    return replace(i, operands=[*i.operands[:2], str(CROWDED + 1)])


def total_is(rows: int) -> Edit:
    """A kernel has another total."""

    def match(i: Instruction) -> bool:
        return i.opcode == "setp.gt.s32" and i.operands[-1] == str(TOTAL)

    return rewrite(match, lambda i: replace(i, operands=[*i.operands[:2], str(rows)]))


def sums_all(i: Instruction) -> Instruction:
    """The compared number is the rows of one expert: all that have any are added up."""
    return replace(i, operands=[*i.operands[:2], "0"])


MISTAKES = {
    "at the bound nobody serves": (AT_THE_BOUND, "moe_gemm_1", bound_is(CROWDED - 1)),
    "at the bound both serve": (AT_THE_BOUND, "moe_gemm_2_many", bound_is(CROWDED - 1)),
    "one above the bound nobody serves": (ONE_ABOVE, "moe_gemm_1_many", bound_is(CROWDED + 1)),
    "one above the bound no row is permuted": (ONE_ABOVE, "permute", rewrite(compares, permutes_nothing)),
    "a launch has the bound of the other calls": (AT_THE_BOUND, "moe_gemm_2", rewrite(selects, other_class)),
}
"""Input, kernel that is changed and must be named, edit."""
OF_THE_TOTAL = {
    "experts below the bound are added up too": (AT_THE_TOTAL, "moe_gemm_1", rewrite(compares, sums_all)),
    "at the total nobody serves": (AT_THE_TOTAL, "moe_gemm_2", total_is(TOTAL - 1)),
    "at the total both serve": (AT_THE_TOTAL, "moe_gemm_2_many", total_is(TOTAL - 1)),
    "one above the total nobody serves": (ABOVE_THE_TOTAL, "moe_gemm_1_many", total_is(TOTAL + 1)),
    "one above the total no row is permuted": (ABOVE_THE_TOTAL, "permute", total_is(TOTAL + 1)),
}
"""The same of the config that asks for the sum."""


QUICK = "at the bound nobody serves"
"""The one of the default run."""


@pytest.fixture(scope="module")
def before(permuted):
    """What the kernels of a call find, made once for all mistakes."""
    return functools.cache(lambda routing, row=0: Before(permuted, row, routing))


@pytest.mark.parametrize("name", [n if n == QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MISTAKES])
def test_a_mistaken_bound_is_seen_in_its_kernel(before, name):
    routing, kernel, edit = MISTAKES[name]
    found = before(routing).verdict(Mistake(name, "sm_90a", "permuted", kernel, edit, routing))
    assert found is not None, f"nothing was seen of: {name}"
    assert "wrong" in found


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_THE_TOTAL)
def test_a_mistaken_total_is_seen_in_its_kernel(before, name):
    routing, kernel, edit = OF_THE_TOTAL[name]
    found = before(routing, 1).verdict(Mistake(name, "sm_90a", "summed", kernel, edit, routing))
    assert found is not None, f"nothing was seen of: {name}"
    assert "wrong" in found


@pytest.fixture(scope="module", params=sorted(OTHERS))
def others(request, build_solution, make_definition):
    return build(build_solution, make_definition, request.param, OTHERS[request.param])


@pytest.mark.slow
@pytest.mark.parametrize("routing", [*ROUTINGS, *EDGES], ids=lambda r: f"{r.name}, {r.tokens}")
def test_every_form_serves_every_routing(others, routing):
    for row in range(len(others.configs)):
        judge(others, row, [routing])


@pytest.mark.slow
@pytest.mark.parametrize("routing", [*ROUTINGS, EDGES[-1]], ids=lambda r: r.name)
def test_permuted_rows_serve_every_routing(permuted, routing):
    judge(permuted, 0, [routing])
