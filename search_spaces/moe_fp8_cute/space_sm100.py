"""The space of sm_100a: parameters, constraints with hardware reasons, the default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from operator import itemgetter
from typing import Any

from search_spaces.moe_fp8_cute.solution.budget_sm100 import BlackwellPlan
from search_spaces.moe_fp8_cute.solution.plans import many_plans, plans
from search_spaces.moe_fp8_cute.solution.plans_sm100 import many_rows_sm100
from search_spaces.moe_fp8_cute.space_split import (
    CROWDED_ROWS,
    CROWDED_TOTAL,
    FEWER_COLUMNS,
    SPLIT_ROWS,
    narrow_parameter,
    split_constraints,
)
from search_spaces.parameters import Config, Constraint, Parameter

TARGET = "sm_100a"


def _gemm_parameters(i: int, split: str) -> tuple[Parameter, ...]:
    """The parameters that both GEMMs have."""
    gemm = f"GEMM {i}"
    return (
        Parameter(f"swap_{i}", (True, False), "categorical", f"{gemm}: weights are the M side of the MMA"),
        Parameter(f"mma_m_{i}", (64, 128, 256), doc=f"{gemm}: rows of an MMA; 256 are shared by a pair of CTAs"),
        Parameter(f"tile_t_{i}", (8, 16, 32, 64, 96, 128, 192, 256), doc=f"{gemm}: token rows of a CTA's tile"),
        Parameter(f"tile_w_{i}", (64, 128, 256), doc=f"{gemm}: weight rows of a CTA's tile"),
        Parameter(f"cluster_w_{i}", (1, 2, 4), doc=f"{gemm}: CTAs of a cluster along the weights"),
        Parameter(f"cluster_t_{i}", (1, 2, 4), doc=f"{gemm}: CTAs of a cluster along the tokens"),
        Parameter(f"k_tile_{i}", (128, 256, 512), doc=f"{gemm}: K extent of a pipeline stage"),
        Parameter(f"stages_{i}", (2, 3, 4, 5, 6, 8, 10, 12), doc=f"{gemm}: pipeline stages"),
        Parameter(f"acc_stages_{i}", (1, 2, 4), doc=f"{gemm}: accumulators in tensor memory"),
        Parameter(f"ctas_per_sm_{i}", (1, 2), doc=f"{gemm}: resident persistent CTAs per SM"),
        Parameter(f"split_k_{i}", (1, 2, 4), doc=f"{gemm}: parts of K, summed by {split}"),
        Parameter(
            f"scaled_{i}",
            (False, True),
            "categorical",
            f"{gemm}: the MMAs multiply with the scales, which must be powers of two; sums stay in tensor memory",
        ),
    )


PARAMETERS = (
    Parameter("sms", (128, 144, 148), doc="SMs that the persistent grids are made for"),
    Parameter("layout", ("flat", "batched"), "categorical", "row space: experts back to back, or [E, max rows, K]"),
    Parameter(
        "gather",
        ("tma", "fused", "kernel"),
        "categorical",
        "GEMM 1 gathers token rows by TMA or by cp.async, or a permute kernel does",
    ),
    Parameter("requant", ("fused", "kernel"), "categorical", "SwiGLU and requantisation in GEMM 1's epilogue or apart"),
    Parameter(
        "combine", ("finalize", "atomic_f32", "atomic_bf16"), "categorical", "weighted sum: own kernel, or GEMM 2 adds"
    ),
    *_gemm_parameters(1, "the requantisation kernel"),
    *_gemm_parameters(2, "the atomics of the combine"),
    Parameter(
        "order",
        ("weights", "tokens", "mixed"),
        "categorical",
        "which tile index runs fastest inside an expert; mixed: tokens, small experts spread among the others",
    ),
    Parameter("pdl", (True, False), "categorical", "programmatic dependent launch between the kernels"),
    Parameter("early_weights", (True, False), "categorical", "GEMM 2 streams weights before GEMM 1 has ended"),
    narrow_parameter((0, 8, 16, 32, 64, 128)),
    Parameter(
        "handover",
        (False, True),
        "categorical",
        "GEMM 2, tokens as M: rows go through shared memory to a warp that stores them beside the next tile",
    ),
    Parameter(
        "fallback",
        (False, True),
        "categorical",
        "where a GPU has no room for a cluster, it may launch smaller ones: pairs, or those that share maxima",
    ),
    SPLIT_ROWS,
    CROWDED_ROWS,
    CROWDED_TOTAL,
    Parameter("many_mma_m", (128, 256), doc="experts with many rows: rows of an MMA; 256 are shared by a pair of CTAs"),
    Parameter("many_cluster_w", (1, 2), doc="experts with many rows: CTAs of a cluster along the weights"),
)

_DEFAULT_GEMM: Config = {
    "swap": False,
    "mma_m": 128,
    "tile_t": 128,
    "tile_w": 256,
    "cluster_w": 1,
    "cluster_t": 1,
    "k_tile": 128,
    "stages": 4,
    "acc_stages": 2,
    "ctas_per_sm": 1,
    "split_k": 1,
    "scaled": False,
}

DEFAULT: Config = {
    "sms": 148,
    "layout": "flat",
    "gather": "tma",
    "requant": "fused",
    "combine": "finalize",
    **{f"{name}_1": value for name, value in _DEFAULT_GEMM.items()},
    **{f"{name}_2": value for name, value in _DEFAULT_GEMM.items()},
    "order": "tokens",
    "pdl": True,
    "early_weights": True,
    "narrow": 0,
    "handover": False,
    "fallback": False,
    "split_rows": 0,
    "crowded_rows": 0,
    "crowded_total": 0,
    "many_mma_m": 128,
    "many_cluster_w": 1,
}
PAIRS_FROM = 2049
"""Tokens from which pairs are the default: the largest of the usual regimes."""
PAIRS: Config = {f"{name}_{i}": v for i in (1, 2) for name, v in (("mma_m", 256), ("cluster_t", 2), ("stages", 5))}
"""What the default of many tokens has otherwise. The shared memory port holds one CTA with 128 x 256 at two thirds of
the tensor cores' rate, a pair with 256 x 256 at all of it; experts with few rows would fill half of a pair's tile."""
MANY = tuple(name for name in DEFAULT if name.startswith("many_"))
"""Parameters of the launches for experts with many rows."""


def _gemm_constraints(
    i: int, problem: Callable[[int, str, tuple[str, ...], tuple], str | None], power_of_two: bool
) -> list[Constraint]:
    """Rules inside one GEMM; the first ones need few parameters and cut most branches."""
    gemm = f"GEMM {i}"

    def named(*bases: str) -> tuple[str, ...]:
        return tuple(f"{base}_{i}" for base in bases)

    def planned(part: str, names: tuple[str, ...], reason: str) -> Constraint:
        values = itemgetter(*names)  # asked more often than all else when configs are drawn
        return Constraint(names, f"{gemm}: {reason}", lambda c: problem(i - 1, part, names, values(c)) is None)

    swap, m, t, w, along_w, along_t = named("swap", "mma_m", "tile_t", "tile_w", "cluster_w", "cluster_t")
    scaled = f"scaled_{i}"
    outer = ("gather", "requant", "combine") if i == 1 else ("combine", "handover")
    tile = named("swap", "mma_m", "tile_t", "tile_w")
    return [
        Constraint(
            (swap, m, t),
            "with tokens as M a CTA has as many token rows as its MMA: 64, or 128 alone and in a pair",
            lambda c: c[swap] or c[t] == min(c[m], 128),
        ),
        Constraint(
            (swap, w),
            "with tokens as M the weight tile is the N side: below 128 the MMA starves on shared memory bandwidth",
            lambda c: c[swap] or c[w] >= 128,
        ),
        planned("mma", (swap, m, t), "N of an MMA goes to 256 in steps of 8 with 64 rows, 16 with 128, 32 in a pair"),
        Constraint(
            (swap, m, w),
            f"{gemm}: weight rows of a tile are whole MMAs of 64 or 128",
            lambda c: not c[swap] or c[w] % min(c[m], 128) == 0,
        ),
        planned(
            "mma",
            (*outer, *tile, *named("k_tile", "split_k", "scaled")),
            "N of an MMA goes to 256 in steps of 8 with 64 rows, of 16 with 128, of 32 in a pair of CTAs; a scaled one "
            "has 128 rows, or 256 in a pair; weight rows are whole MMAs, parts of K whole stages; requantised tiles of "
            "unswapped operands have 128 columns",
        ),
        planned(
            "narrow",
            ("narrow", swap, m, t),
            "the second N, too, comes in steps of 8 with 64 rows, of 16 with 128, of 32 in a pair of CTAs",
        ),
        Constraint(
            (scaled,),
            "scaled MMAs multiply with powers of two: a definition promises them by the tag scales:power_of_two",
            lambda c: power_of_two or not c[scaled],
        ),
        Constraint(
            (swap, m, along_w, along_t),
            "a pair of CTAs is a cluster of two along the M side",
            lambda c: c[m] != 256 or c[along_w if c[swap] else along_t] % 2 == 0,
        ),
        Constraint(
            (along_w, along_t),
            "a portable cluster has at most 8 CTAs",
            lambda c: c[along_w] * c[along_t] <= 8,
        ),
        planned(
            "cluster",
            ("sms", *outer, *tile, along_w, along_t, f"ctas_per_sm_{i}"),
            "clusters cover the weights, the grid and a requantisation block; boxes of a multicast have at least 8 "
            "rows; cp.async completes on its own CTA's barrier, the MMA of a pair waits on the leader's",
        ),
        planned(
            "memory",
            (*outer, *tile, *named("k_tile", "stages", "acc_stages", "ctas_per_sm", "scaled")),
            "shared memory has 227 KB per CTA and 228 KB per SM; tensor memory has 512 columns per SM, allocated in "
            "powers of two, with sums and the factors of scaled MMAs",
        ),
        planned(
            "register",
            (*outer, *tile, f"ctas_per_sm_{i}", scaled),
            "an SM has 64 K registers: sums and the columns in flight leave the promotion warps too few",
        ),
    ]


def constraints(sizes: Mapping[str, Any]) -> tuple[Constraint, ...]:
    """All rules of the space for a definition's sizes."""

    @lru_cache(maxsize=1 << 16)
    def problem(which: int, part: str, names: tuple[str, ...], values: tuple) -> str | None:
        plan = plans({**DEFAULT, **dict(zip(names, values, strict=True))}, sizes)[which]
        found: str | None = getattr(plan, f"{part}_problem")()
        return found

    many = ("sms", "gather", "combine", "handover", "split_rows", "scaled_1", "scaled_2", *MANY)
    power_of_two = sizes["power_of_two"]

    @lru_cache(maxsize=1 << 12)
    def many_problem(values: tuple) -> bool:
        return any(plan.problem() is not None for plan in many_plans({**DEFAULT, **dict(values)}, sizes))

    bases = ("swap", "mma_m", "tile_t", "tile_w", "cluster_w", "cluster_t")
    shapes = ("fallback", "requant", "combine", "split_rows", *MANY, *(f"{base}_{i}" for i in (1, 2) for base in bases))

    @lru_cache(maxsize=1 << 12)
    def smaller(values: tuple) -> bool:
        config = {**DEFAULT, **dict(values)}
        every = (*plans(config, sizes), *many_plans(config, sizes))
        return any(plan.least < plan.cluster for plan in every if isinstance(plan, BlackwellPlan))

    return (
        *_gemm_constraints(1, problem, power_of_two),
        *_gemm_constraints(2, problem, power_of_two),
        Constraint(
            ("requant", "split_k_1"),
            "SwiGLU needs the full sum: parts of K are added by the requantisation kernel",
            lambda c: c["split_k_1"] == 1 or c["requant"] == "kernel",
        ),
        Constraint(
            ("combine", "split_k_2"),
            "parts of GEMM 2 are added by the atomics; the finalize kernel reads one bfloat16 row",
            lambda c: c["split_k_2"] == 1 or c["combine"] == "atomic_f32",
        ),
        Constraint(
            ("tile_t_1", "cluster_t_1", "tile_t_2", "cluster_t_2"),
            "segments are filled up to whole clusters of both GEMMs: one must be a multiple of the other",
            lambda c: _multiple(c["tile_t_1"] * c["cluster_t_1"], c["tile_t_2"] * c["cluster_t_2"]),
        ),
        FEWER_COLUMNS,
        # The same where one GEMM alone can have such tiles, from fewer parameters: else most random draws would end at
        # the rule above.
        *(
            Constraint(
                ("narrow", *mine, f"swap_{other}"),
                FEWER_COLUMNS.reason,
                lambda c, mine=mine, other=other: not c["narrow"] or c[f"swap_{other}"] or _wider(c, *mine),  # type: ignore[misc]
            )
            for mine, other in ((("swap_1", "tile_t_1"), 2), (("swap_2", "tile_t_2"), 1))
        ),
        *split_constraints(DEFAULT, MANY),
        Constraint(
            ("split_rows", "many_mma_m", "tile_t_1", "cluster_t_1", "tile_t_2", "cluster_t_2"),
            "segments are filled up to whole tiles of every launch: a large tile must be a multiple of the small ones",
            lambda c: (
                not c["split_rows"]
                or many_rows_sm100(c) % max(c[f"tile_t_{i}"] * c[f"cluster_t_{i}"] for i in (1, 2)) == 0
            ),
        ),
        Constraint(
            many,
            "clusters of the launches for many rows cover weights and grid; gathered rows of a pair come by TMA",
            lambda c: not many_problem(tuple((n, c[n]) for n in many)),
        ),
        Constraint(
            ("handover", "combine"),
            "handover passes on bfloat16 rows, so combine is not atomic_f32",
            lambda c: not c["handover"] or c["combine"] != "atomic_f32",
        ),
        Constraint(
            ("handover", "swap_2", "split_rows"),
            "rows are handed over by a GEMM 2 that has tokens as M",
            lambda c: not c["handover"] or not c["swap_2"] or c["split_rows"] > 0,
        ),
        Constraint(
            shapes,
            "only a cluster of more CTAs than a pair, or than share maxima, can be replaced by smaller ones",
            lambda c: not c["fallback"] or smaller(tuple((n, c[n]) for n in shapes)),
        ),
        Constraint(
            ("handover", "scaled_2"),
            "with scaled MMAs rows are stored beside the next tile in any case, and the warp that would has the scales",
            lambda c: not (c["handover"] and c["scaled_2"]),
        ),
        Constraint(
            ("pdl", "early_weights"),
            "without programmatic launch GEMM 2 starts after GEMM 1 in any case",
            lambda c: c["pdl"] or not c["early_weights"],
        ),
    )


def _wider(c: Mapping[str, Any], swap: str, tile_t: str) -> bool:
    """Whether a GEMM has tiles of more token columns than the second N."""
    return bool(c[swap]) and c[tile_t] > c["narrow"]


def _multiple(a: int, b: int) -> bool:
    """Whether one is a multiple of the other."""
    return max(a, b) % min(a, b) == 0
