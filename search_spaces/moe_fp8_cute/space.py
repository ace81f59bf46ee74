"""The search space of the FP8 block-scale MoE kernels: parameters, constraints with hardware reasons, the default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Any

from search_spaces.emulated_case import EmulatedCase
from search_spaces.moe_fp8.family import MoeFamily
from search_spaces.moe_fp8.reading import Reading, read
from search_spaces.moe_fp8_cute import space_sm100
from search_spaces.moe_fp8_cute.model import MoeModel
from search_spaces.moe_fp8_cute.solution.plans import many_plans, plans, takes_turns
from search_spaces.moe_fp8_cute.space_split import (
    CROWDED_ROWS,
    CROWDED_TOTAL,
    FEWER_COLUMNS,
    SPLIT_ROWS,
    narrow_parameter,
    split_constraints,
)
from search_spaces.moe_fp8_cute.stages import cases
from search_spaces.moe_fp8_cute.starts import BLACKWELL, HOPPER
from search_spaces.parameters import Config, Constraint, Parameter, SpaceError
from search_spaces.space import SearchSpace, Start

NAME = "moe_fp8_cute"
TARGETS = ("sm_90a", "sm_100a")
LARGEST_HIDDEN = 1024 * 4 * 8
"""Threads of a CTA, pieces of a thread, columns of a piece."""


def _gemm_parameters(i: int, halves: str, split: str) -> tuple[Parameter, ...]:
    """The parameters that both GEMMs have."""
    gemm, shared = f"GEMM {i}", ("none", "tokens", "weights")
    return (
        Parameter(f"swap_{i}", (True, False), "categorical", f"{gemm}: weights are the M side of the MMA"),
        Parameter(f"tile_t_{i}", (8, 16, 24, 32, 48, 64, 128, 256), doc=f"{gemm}: token rows of a tile"),
        Parameter(f"tile_w_{i}", (64, 128, 256), doc=f"{gemm}: weight rows of a tile{halves}"),
        Parameter(f"groups_{i}", (1, 2), doc=f"{gemm}: consumer warpgroups"),
        Parameter(f"stages_{i}", (3, 4, 5, 6, 8, 10, 12), doc=f"{gemm}: pipeline stages of 128 along K"),
        Parameter(f"ctas_per_sm_{i}", (1, 2), doc=f"{gemm}: resident persistent CTAs per SM"),
        Parameter(f"split_k_{i}", (1, 2, 4), doc=f"{gemm}: parts of K, summed by {split}"),
        Parameter(f"multicast_{i}", shared, "categorical", f"{gemm}: tile that two CTAs share by multicast"),
    )


PARAMETERS = (
    Parameter("layout", ("flat", "batched"), "categorical", "row space: experts back to back, or [E, max rows, K]"),
    Parameter(
        "gather",
        ("fused", "kernel", "many", "beside"),
        "categorical",
        "GEMM 1 gathers token rows itself; or a permute kernel does, for all experts or those of many rows; or idle "
        "warps of GEMM 1 permute them beside its MMAs, where tokens are M",
    ),
    Parameter("requant", ("fused", "kernel"), "categorical", "SwiGLU and requantisation in GEMM 1's epilogue or apart"),
    Parameter(
        "combine", ("finalize", "atomic_f32", "atomic_bf16"), "categorical", "weighted sum: own kernel, or GEMM 2 adds"
    ),
    Parameter(
        "clear",
        ("ahead", "along"),
        "categorical",
        "combine = atomic_bf16: a warp of GEMM 1 clears the output as fast as it can, or some of it with every K block",
    ),
    *_gemm_parameters(1, ", half up and half gate", "the requantisation kernel"),
    *_gemm_parameters(2, "", "the atomics of the combine"),
    Parameter("alternate", (False, True), "categorical", "the consumer warpgroups take turns on the tensor cores"),
    Parameter("sms", (120, 132), doc="SMs that the persistent grids are made for"),
    Parameter(
        "order",
        ("weights", "tokens", "mixed"),
        "categorical",
        "which tile index runs fastest inside an expert; mixed: tokens, small experts spread among the others",
    ),
    Parameter("pdl", (True, False), "categorical", "programmatic dependent launch between the kernels"),
    Parameter("early_weights", (True, False), "categorical", "GEMM 2 streams weights before GEMM 1 has ended"),
    Parameter(
        "feed",
        ("grid", "tiles"),
        "categorical",
        "GEMM 2 starts its tiles when GEMM 1 has ended, or takes them from a queue when their rows are there",
    ),
    narrow_parameter((0, 8, 16)),
    Parameter(
        "narrow_tiles",
        (0, 2, 4),
        doc="swapped operands: all tiles are narrow where that makes at most so many token tiles in all; 0: never",
    ),
    SPLIT_ROWS,
    CROWDED_ROWS,
    CROWDED_TOTAL,
    Parameter("many_tile_t", (64, 128, 256), doc="experts with many rows: token rows of a tile"),
    Parameter("many_tile_w_1", (128, 256), doc="experts with many rows, GEMM 1: weight rows of a tile"),
    Parameter("many_tile_w_2", (128, 256), doc="experts with many rows, GEMM 2: weight rows of a tile"),
    Parameter(
        "many_ctas_per_sm",
        (1, 2),
        doc="experts with many rows, GEMMs with tiles of 64 x 128: resident persistent CTAs per SM",
    ),
    Parameter(
        "many_multicast",
        ("none", "tokens", "weights"),
        "categorical",
        "experts with many rows: tile that two CTAs share by multicast",
    ),
    Parameter(
        "small_tiles",
        (0, 2, 4, 8),
        doc="experts with many rows, GEMM 1, where they are at most so many token tiles: a launch with tiles of "
        "small_tile_t x 128 serves them; 0: never",
    ),
    Parameter("small_tile_t", (64, 128), doc="experts with many rows in few tiles, GEMM 1: token rows of a tile"),
)

_DEFAULT_GEMM: Config = {
    "swap": False,
    "tile_t": 64,
    "tile_w": 256,
    "groups": 1,
    "stages": 5,
    "ctas_per_sm": 1,
    "split_k": 1,
    "multicast": "none",
}

DEFAULT: Config = {
    "layout": "flat",
    "gather": "fused",
    "requant": "fused",
    "combine": "finalize",
    "clear": "ahead",
    **{f"{name}_1": value for name, value in _DEFAULT_GEMM.items()},
    **{f"{name}_2": value for name, value in _DEFAULT_GEMM.items()},
    "alternate": False,
    "sms": 132,
    "order": "tokens",
    "pdl": True,
    "early_weights": True,
    "feed": "grid",
    "narrow": 0,
    "narrow_tiles": 0,
    "split_rows": 0,
    "crowded_rows": 0,
    "crowded_total": 0,
    "many_tile_t": 128,
    "many_tile_w_1": 256,
    "many_tile_w_2": 256,
    "many_ctas_per_sm": 1,
    "many_multicast": "none",
    "small_tiles": 0,
    "small_tile_t": 64,
}
MANY = tuple(name for name in DEFAULT if name.startswith(("many_", "small_")))
"""Parameters of the launches for experts with many rows."""


def _gemm_constraints(i: int) -> list[Constraint]:
    """Rules inside one GEMM."""
    swap, tile_t, tile_w, groups = (f"{n}_{i}" for n in ("swap", "tile_t", "tile_w", "groups"))
    return [
        Constraint(
            (swap, tile_t, groups),
            "a wgmma takes 64 rows of A per warpgroup: with tokens as M the tile has 64 or 128 rows per warpgroup",
            lambda c: c[swap] or c[tile_t] in (64 * c[groups], 128 * c[groups]),
        ),
        Constraint(
            (swap, tile_t),
            "swapped operands hold a column per token: beyond 64 the column scales do not fit into registers",
            lambda c: not c[swap] or c[tile_t] <= 64,
        ),
        Constraint(
            (swap, tile_w, groups),
            "swapped operands give every consumer warpgroup whole MMAs of 64 weight rows",
            lambda c: not c[swap] or c[tile_w] % (64 * c[groups]) == 0,
        ),
        Constraint(
            (swap, tile_w),
            "with tokens as M the weight tile is the N side: below 128 rows the MMA starves on shared memory bandwidth",
            lambda c: c[swap] or c[tile_w] >= 128,
        ),
    ]


def _feed_constraints() -> list[Constraint]:
    """When GEMM 2 can take over from GEMM 1 tile by tile."""

    def rule(names: tuple[str, ...], reason: str, holds: Callable[[Mapping[str, Any]], bool]) -> Constraint:
        return Constraint(("feed", *names), reason, lambda c: c["feed"] == "grid" or holds(c))

    return [
        rule(
            ("pdl", "early_weights"),
            "handed over tile by tile, GEMM 2 must start beside GEMM 1: programmatically, and its weights first",
            lambda c: c["pdl"] and c["early_weights"],
        ),
        rule(
            ("requant",),
            "handed over tile by tile, GEMM 1 must write what GEMM 2 reads",
            lambda c: c["requant"] == "fused",
        ),
        rule(
            ("swap_1", "swap_2", "tile_t_1", "tile_t_2", "small_tiles"),
            "token tiles that are handed over are the same ones in both GEMMs",
            lambda c: c["swap_1"] == c["swap_2"] and c["tile_t_1"] == c["tile_t_2"] and not c["small_tiles"],
        ),
        rule(
            ("split_rows", "ctas_per_sm_1", "many_ctas_per_sm"),
            "handed over tile by tile, all launches of GEMM 1 that may clear the output have as many CTAs",
            lambda c: not c["split_rows"] or c["ctas_per_sm_1"] == c["many_ctas_per_sm"] == 1,
        ),
        rule(
            ("combine", "clear"),
            "handed over tile by tile, the output must be cleared before the last tiles: along the main loop",
            lambda c: c["combine"] != "atomic_bf16" or c["clear"] == "along",
        ),
    ]


def _constraints(sizes: Mapping[str, Any]) -> tuple[Constraint, ...]:
    @lru_cache(maxsize=1 << 16)
    def problem(which: int, names: tuple[str, ...], values: tuple) -> str | None:
        return plans({**DEFAULT, **dict(zip(names, values, strict=True))}, sizes)[which].problem()

    def fits(which: int, names: tuple[str, ...]) -> Callable[[Mapping[str, Any]], bool]:
        values = itemgetter(*names)  # asked more often than all else when configs are drawn
        return lambda c: problem(which, names, values(c)) is None

    bases = ("swap", "tile_t", "tile_w", "groups", "stages", "ctas_per_sm", "split_k", "multicast")
    first = ("gather", "requant", "sms", "split_rows", *(f"{n}_1" for n in bases))
    second = ("combine", "sms", *(f"{n}_2" for n in bases))
    many = ("gather", "combine", "sms", "split_rows", *MANY)

    @lru_cache(maxsize=1 << 16)
    def many_problem(values: tuple) -> bool:
        return any(plan.problem() is not None for plan in many_plans({**DEFAULT, **dict(values)}, sizes))

    def many_fit(c: Mapping[str, Any]) -> bool:
        return not many_problem(tuple((n, c[n]) for n in many))

    plan_reason = "{}: shared memory (227 KB per SM), registers (64 K per SM), tile or K division does not work out"
    return (
        *split_constraints(DEFAULT, MANY),
        Constraint(
            ("gather", "split_rows"),
            "one launch for all experts gathers all rows or none",
            lambda c: c["gather"] != "many" or c["split_rows"] > 0,
        ),
        Constraint(
            ("gather", "swap_1", "split_rows"),
            "rows are permuted beside GEMM 1 in tiles of 64 rows or more: where one launch serves all, tokens are M",
            lambda c: c["gather"] != "beside" or c["split_rows"] > 0 or not c["swap_1"],
        ),
        *_gemm_constraints(1),
        *_gemm_constraints(2),
        Constraint(
            ("combine", "clear"),
            "only an output that GEMM 2 adds to in bfloat16 is cleared by GEMM 1: else only the default is taken",
            lambda c: c["combine"] == "atomic_bf16" or c["clear"] == DEFAULT["clear"],
        ),
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
            ("gather", "multicast_1", "split_rows"),
            "cp.async cannot multicast: only token rows that come by TMA can be shared",
            lambda c: (
                c["multicast_1"] != "tokens"
                or c["gather"] == "kernel"
                or (c["gather"] == "beside" and not c["split_rows"])
            ),
        ),
        Constraint(
            ("gather", "many_multicast"),
            "cp.async cannot multicast: only token rows that come by TMA can be shared",
            lambda c: c["many_multicast"] != "tokens" or c["gather"] != "fused",
        ),
        Constraint(
            ("multicast_1", "swap_1"),
            "narrow fused tiles form clusters for the maximum of 128 columns; swapped token tiles are too small",
            lambda c: c["multicast_1"] == "none" or not c["swap_1"],
        ),
        Constraint(
            ("multicast_2", "swap_2"),
            "a swapped token tile is a few KB: sharing it saves nothing",
            lambda c: c["multicast_2"] == "none" or not c["swap_2"],
        ),
        Constraint(
            ("tile_t_1", "tile_t_2"),
            "segments are filled up to whole tiles of both GEMMs: one tile must be a multiple of the other",
            lambda c: max(c["tile_t_1"], c["tile_t_2"]) % min(c["tile_t_1"], c["tile_t_2"]) == 0,
        ),
        Constraint(
            ("pdl", "early_weights"),
            "without programmatic launch GEMM 2 starts after GEMM 1 in any case",
            lambda c: c["pdl"] or not c["early_weights"],
        ),
        Constraint(
            ("alternate", "swap_1", "groups_1", "tile_t_1", "swap_2", "groups_2", "tile_t_2"),
            "only two warpgroups with 64 token rows each can take turns; swapped ones overlap promotion by themselves",
            lambda c: not c["alternate"] or any(takes_turns(c, i) for i in (1, 2)),
        ),
        *_feed_constraints(),
        FEWER_COLUMNS,
        Constraint(
            ("narrow", "narrow_tiles"),
            "narrow tiles are those of the second N: without it there are none",
            lambda c: not c["narrow_tiles"] or c["narrow"] > 0,
        ),
        Constraint(
            ("small_tiles", "small_tile_t"),
            "without a launch for few tiles their size has no effect: only the default is taken",
            lambda c: c["small_tiles"] > 0 or c["small_tile_t"] == DEFAULT["small_tile_t"],
        ),
        Constraint(
            ("small_tiles", "small_tile_t", "many_tile_t", "many_tile_w_1"),
            "a launch for few tiles is of use where its are the smaller ones: more SMs have one",
            lambda c: not c["small_tiles"] or c["small_tile_t"] * 128 < c["many_tile_t"] * c["many_tile_w_1"],
        ),
        Constraint(
            ("small_tiles", "small_tile_t", "tile_t_1", "tile_t_2"),
            "segments are filled up to whole tiles of every launch: a large tile must be a multiple of the small ones",
            lambda c: not c["small_tiles"] or c["small_tile_t"] % max(c["tile_t_1"], c["tile_t_2"]) == 0,
        ),
        Constraint(
            ("many_ctas_per_sm", "many_tile_t", "many_tile_w_1", "many_tile_w_2"),
            "only CTAs of one warpgroup with tiles of 64 x 128 leave room for a second one",
            lambda c: (
                c["many_ctas_per_sm"] == 1
                or (c["many_tile_t"] == 64 and 128 in (c["many_tile_w_1"], c["many_tile_w_2"]))
            ),
        ),
        Constraint(
            ("split_rows", "many_tile_t", "tile_t_1", "tile_t_2"),
            "segments are filled up to whole tiles of every launch: a large tile must be a multiple of the small ones",
            lambda c: not c["split_rows"] or c["many_tile_t"] % max(c["tile_t_1"], c["tile_t_2"]) == 0,
        ),
        Constraint(many, plan_reason.format("the GEMMs of many rows"), many_fit),
        Constraint(first, plan_reason.format("GEMM 1"), fits(0, first)),
        Constraint(second, plan_reason.format("GEMM 2"), fits(1, second)),
    )


def sizes_of(definition: Mapping[str, Any]) -> dict[str, Any]:
    """The constants the kernels need, read from the definition.

    Raises:
        SpaceError: Something this family needs is missing or not supported; the message says what.
    """
    reading = read(definition)
    why = _not_for_the_kernels(reading)
    if why is not None:
        raise SpaceError(why)
    return asdict(reading)


def _not_for_the_kernels(r: Reading) -> str | None:
    """Why these kernels cannot do a valid MoE, None if they can."""
    for name, size in (("hidden_size", r.hidden), ("intermediate_size", r.intermediate)):
        if size % 256:
            return f"{name} is {size}, the main loop takes pairs of 128-blocks"
    if r.hidden > LARGEST_HIDDEN:
        return f"hidden_size is {r.hidden}, the combine kernel takes up to {LARGEST_HIDDEN}"
    if r.experts % 32:
        return f"{r.experts} experts do not divide among the 32 lanes of a warp"
    if r.groups not in (1, 2, 4, 8, 16, 32):
        return f"{r.groups} groups of experts, a group is a power of two of a warp's 32 lanes"
    if r.top_k > 32:
        return f"top-k is {r.top_k}, a warp chooses up to 32 experts"
    return None


class MoeFp8Cute(MoeFamily):
    """FP8 block-scale MoE with routing, for Hopper and Blackwell."""

    name = NAME
    targets = TARGETS

    def sizes(self, definition: Mapping[str, Any]) -> Mapping[str, Any]:
        return sizes_of(definition)

    def space(self, definition: Mapping[str, Any], target: str) -> SearchSpace:
        if target not in TARGETS:
            raise SpaceError(f"space {NAME!r} has no target {target!r}; it has {', '.join(TARGETS)}")
        sizes = sizes_of(definition)
        folder = Path(__file__).parent / "solution"
        blackwell = target == space_sm100.TARGET
        constraints = space_sm100.constraints(sizes) if blackwell else _constraints(sizes)
        default = dict(space_sm100.DEFAULT if blackwell else DEFAULT)
        table = BLACKWELL if blackwell else HOPPER
        starts = [Start({**default, **changes}, low, high) for low, high, changes in table]
        pairs = {**default, **space_sm100.PAIRS} if blackwell else default
        by_size = (Start(default, 0, space_sm100.PAIRS_FROM - 1), Start(pairs, space_sm100.PAIRS_FROM))
        return SearchSpace(
            name=NAME,
            target=target,
            parameters=space_sm100.PARAMETERS if blackwell else PARAMETERS,
            constraints=constraints,
            default=default,
            sources={p.name: p.read_text(encoding="utf-8") for p in sorted(folder.glob("*.py"))},
            sizes=sizes,
            size_axis="seq_len",
            dependencies=("nvidia-cutlass-dsl", "apache-tvm-ffi", "torch"),
            # Made for the main definition; not all are valid for the sizes of others.
            starts=tuple(s for s in starts if all(c.holds(s.config) for c in constraints)),
            defaults=by_size if blackwell and all(c.holds(pairs) for c in constraints) else (),
            model=MoeModel(sizes),
        )

    def emulated_cases(self, space: SearchSpace, config: Mapping[str, Any]) -> list[EmulatedCase]:
        return cases(config, space.sizes, space.target)


FAMILY = MoeFp8Cute()
