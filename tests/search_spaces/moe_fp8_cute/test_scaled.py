"""Scaled MMAs, for scales that are powers of two: right with them, refused or NaN with others, mistakes are seen."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("cutlass", reason="nvidia-cutlass-dsl is not installed")

from search_spaces.moe_fp8_cute.routings import ROUTINGS, Routing
from search_spaces.moe_fp8_cute.solution.plans import launches
from search_spaces.moe_fp8_cute.stages import FP8, MoeProblem, bfloat, cases, real_rows
from tests.search_spaces.moe_fp8.definitions import promising
from tests.search_spaces.moe_fp8_cute.conftest import BOUNDS, CTAS, SMALL, Built
from tests.search_spaces.moe_fp8_cute.mistakes import SCALED
from tests.search_spaces.moe_fp8_cute.test_emulated import QUICK, judge
from tests.search_spaces.moe_fp8_cute.test_mistakes import Before
from workers.emulator.judge import EmulatedStatus, run_case
from workers.emulator.ops.fp8 import BLACKWELL, multiply

BOTH = {"scaled_1": True, "scaled_2": True, "acc_stages_1": 1, "acc_stages_2": 1}
PAIR_2 = {"mma_m_2": 256, "cluster_t_2": 2}
CONFIGS = {
    # one CTA, fused requantisation; a pair, output cleared by the promotion warps
    "tokens": {**BOTH, **PAIR_2, "combine": "atomic_bf16", "k_tile_2": 256, "stages_2": 3},
    # clusters of pairs, several K blocks a stage
    "pairs": {
        **{**BOTH, **PAIR_2, "mma_m_1": 256, "cluster_t_1": 2, "cluster_w_1": 2, "gather": "kernel"},
        **{"k_tile_1": 256, "stages_1": 3, "fallback": True},
    },
    # up and gate in one accumulator, two of them; a GEMM 2 without
    "joined": {"scaled_1": True, "requant": "kernel", "tile_w_1": 128, "tile_w_2": 128},
    # weights as M, in pairs, with a second N, parts of K
    "swapped pairs": {
        **{"scaled_1": True, "scaled_2": True, "layout": "batched", "gather": "kernel", "requant": "kernel"},
        **{"combine": "atomic_f32", "pdl": False, "early_weights": False, "acc_stages_1": 1, "narrow": 32},
        **{"k_tile_2": 512, "stages_2": 2, "split_k_2": 1},
        **{"swap_1": True, "mma_m_1": 256, "tile_t_1": 64, "tile_w_1": 128, "cluster_w_1": 2, "split_k_1": 2},
        **{"swap_2": True, "mma_m_2": 256, "tile_t_2": 32, "tile_w_2": 128, "cluster_w_2": 2, "cluster_t_2": 2},
    },
    # weights as M, two MMAs a K step, rows gathered by cp.async; token tiles of half a warp
    "swapped": {
        **{"scaled_1": True, "scaled_2": True, "gather": "fused", "swap_1": True, "tile_t_1": 32, "tile_w_1": 256},
        **{"swap_2": True, "tile_t_2": 16, "tile_w_2": 128, "narrow": 16},
    },
    # launches of their own for many rows
    "split": {
        **{"scaled_1": True, "scaled_2": True, "combine": "atomic_bf16", "split_rows": 8, "many_mma_m": 256},
        **{"swap_1": True, "tile_t_1": 16, "tile_w_1": 128, "cluster_w_1": 2},
        **{"swap_2": True, "tile_t_2": 32, "tile_w_2": 128},
    },
}  # fmt: skip
"""Changes of the default; the first ones are built by default, the others are slow."""

SAMPLE = [f"sm_100a scaled: {name}" for name in ("scales of A are those of another id", "gate has the scales of up")]
"""Planted mistakes of the default run."""


def build_scaled(build_solution, make_definition, names: list[str]) -> Built:
    changes = [CONFIGS[name] for name in names]
    definition = promising(make_definition(**SMALL))
    built = build_solution("sm_100a", definition, changes, BOUNDS[: len(names) - 1], ctas=CTAS, keep_ptx=True)
    built.names = names
    return built


@pytest.fixture(scope="module")
def scaled(build_solution, make_definition) -> Built:
    """The config of the default run."""
    return build_scaled(build_solution, make_definition, ["tokens"])


@pytest.fixture(scope="module")
def others(build_solution, make_definition) -> Built:
    return build_scaled(build_solution, make_definition, [name for name in CONFIGS if name != "tokens"])


def test_every_kernel_leaves_what_it_must(scaled):
    judge(scaled, 0, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("routing", ROUTINGS, ids=lambda r: r.name)
def test_every_form_on_every_routing(scaled, others, routing):
    judge(scaled, 0, [routing])
    for row in range(len(others.configs)):
        judge(others, row, [routing])


@pytest.fixture(scope="module")
def verdict(scaled) -> Callable[[str], str | None]:
    """What a planted mistake shows; what its kernel finds is made once for each routing."""
    made: dict[Routing, Before] = {}

    def get(name: str) -> str | None:
        mistake = SCALED[name]
        if mistake.routing not in made:
            made[mistake.routing] = Before(scaled, 0, mistake.routing)
        return made[mistake.routing].verdict(mistake)

    return get


@pytest.mark.parametrize("name", SAMPLE)
def test_a_mistake_is_seen(verdict, name):
    assert verdict(name) is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(SCALED) - set(SAMPLE)))
def test_every_mistake_is_seen(verdict, name):
    assert verdict(name) is not None


def test_a_scale_that_is_no_power_of_two_makes_nan(scaled):
    """A definition that breaks its promise is not answered with numbers that look right; other tokens are untouched."""
    (case,) = cases(scaled.configs[0], scaled.space.sizes, "sm_100a", QUICK)
    problem = MoeProblem(scaled.configs[0], scaled.space.sizes, "sm_100a", case.size, case.offset)
    xs = case.inputs["xs"].copy()
    # A mantissa, a sign, zero, no normal number, infinity; every sixth token is as it was.
    for kind, value in enumerate((1.5 * xs[1], -xs[1], 0.0, 2.0**-127, np.inf)):
        xs[1, kind::6] = np.broadcast_to(value, xs[1].shape)[kind::6]
    seen = {}

    def look(kernel, memory):
        if kernel in ("moe_gemm_1", "moe_gemm_2"):
            rows, token = real_rows(problem, memory)[0], problem.view(memory, "row_token")
            broken = np.unique(token[rows][token[rows] % 6 != 5])
            act, out = FP8[problem.view(memory, "act")[rows]], bfloat(problem.view(memory, "out"))
            seen[kernel] = [np.isnan(part).all() for part in (act[np.isin(token[rows], broken)], out[broken])]
            seen[kernel] += [np.isnan(np.delete(out, broken, 0)).any(), len(broken) > 2]

    inputs = {**case.inputs, "xs": xs}
    verdict = run_case(scaled.host, replace(case, inputs=inputs, check=look), 0)
    assert verdict.is_passed, "every kernel ends"
    assert seen == {"moe_gemm_1": [True, False, False, True], "moe_gemm_2": [True, True, False, True]}
    refused = run_case(scaled.host, replace(case, inputs=inputs), 0)
    assert (refused.status, refused.kernel) == (EmulatedStatus.WRONG, "moe_gemm_1")


def test_sums_are_not_promoted(scaled):
    """No multiply-add of two sums at a time, one copy of factors for 128 rows of M and N, scale ids of the plan."""
    config, space = scaled.configs[0], scaled.space
    (path,) = (scaled.folder / "artifacts").glob("*.ptx")
    for name, plan in launches(config, space.sizes):
        kernel = next(part for part in path.read_text().split(".entry ") if part.startswith(name))
        assert plan.scaled
        assert "fma.rn.f32x2" not in kernel
        assert kernel.count("tcgen05.cp.") == plan.factor_columns // 4
        issued = re.findall(r"tcgen05\.mma\.cta_group::(\d)\.kind::mxf8f6f4\.block_scale", kernel)
        assert issued == [str(1 + plan.pair)] * (4 * plan.mmas * plan.k_per_stage)
        assert kernel.count("tcgen05.wait::ld") == 1


def test_a_scaled_product_is_that_of_scaled_numbers():
    """Beside numbers: products keep their bits, whatever the powers; NaN stays in its row or column."""
    rng = np.random.default_rng(1)
    a, b = (rng.integers(0, 0x50, (n, 32), np.uint8) for n in (8, 5))
    of_a, of_b = (rng.integers(-20, 20, n).astype(np.int32) + 127 for n in (8, 5))
    found = multiply(a, b, np.zeros((8, 5), np.float32), *BLACKWELL, of_a, of_b)
    wanted = (FP8[a] * np.exp2(of_a[:, None] - 127.0)) @ (FP8[b] * np.exp2(of_b[:, None] - 127.0)).T
    np.testing.assert_allclose(found, wanted, rtol=2.0**-17)
    of_a[2], of_b[4] = 255, 255
    nan = np.isnan(multiply(a, b, np.zeros((8, 5), np.float32), *BLACKWELL, of_a, of_b))
    assert nan[2].all()
    assert nan[:, 4].all()
    assert nan.sum() == 5 + 8 - 1
