"""Configs that a sweep should try early: on Hopper the fastest that were measured on H100s and H200s at some size.

Source: docs/results/h100-moe.md, gpu-sweep.md, prefill.md, and routing.md for the newest ones. They are only starts:
another card, definition or routing has other winners.
"""

from __future__ import annotations

from typing import Any

from search_spaces.moe_fp8_cute.space_sm100 import PAIRS


def _swapped(tile_t: int, **others: Any) -> dict[str, Any]:
    """Weights as M in both GEMMs, as many stages as fit, rows added in bfloat16."""
    both: dict[str, Any] = {"swap": True, "tile_t": tile_t, "tile_w": 128, "groups": 2, "stages": 10}
    if tile_t == 64:
        both["stages"] = 6
    named = {f"{name}_{i}": value for i in (1, 2) for name, value in both.items()}
    return {"combine": "atomic_bf16", **named, **({"narrow": 8} if tile_t > 8 else {}), **others}


def _many(rows: int, tile_t: int, tile_w_1: int, tile_w_2: int, multicast: str = "none") -> dict[str, Any]:
    """Launches of their own for experts with more rows."""
    return {
        "split_rows": rows,
        "many_tile_t": tile_t,
        "many_tile_w_1": tile_w_1,
        "many_tile_w_2": tile_w_2,
        "many_multicast": multicast,
    }


_SPLIT_K: dict[str, Any] = {
    **_swapped(8, combine="atomic_f32", groups_1=1, stages_1=8, stages_2=6),
    **{"ctas_per_sm_2": 2, "split_k_2": 4, "order": "weights"},
}
_SHARED_WEIGHTS: dict[str, Any] = {
    "gather": "kernel",
    "combine": "atomic_bf16",
    **{f"{name}_{i}": value for i in (1, 2) for name, value in (("groups", 2), ("tile_t", 128), ("stages", 4))},
    "multicast_1": "weights",
    "multicast_2": "weights",
}
_SHARED_HALVES: dict[str, Any] = {**_SHARED_WEIGHTS, "tile_w_2": 128, "stages_2": 6}
"""Half as many weight rows in GEMM 2's tiles."""
_NARROW: dict[str, Any] = {
    "combine": "atomic_bf16",
    **{f"{name}_{i}": value for i in (1, 2) for name, value in (("tile_w", 128), ("stages", 6))},
}
_NARROW_PAIRS: dict[str, Any] = {**_NARROW, "stages_2": 4, "ctas_per_sm_2": 2}
"""The same with two CTAs of GEMM 2 on an SM."""
_TWICE_BUSY: dict[str, Any] = {"crowded_rows": 64, "crowded_total": 256}
"""One expert that 256 tokens choose is no reason to divide a call, two are."""
_PERMUTED: dict[str, Any] = {"gather": "many"}
"""Rows of experts with many rows come by TMA from a permuted copy."""
_BESIDE: dict[str, Any] = {"gather": "beside", "clear": "along"}
"""GEMM 1 makes that copy and clears the output, both while it multiplies."""
_FED: dict[str, Any] = {"clear": "along", "feed": "tiles"}
"""GEMM 2 starts beside the last tiles of GEMM 1."""


def _small(tiles: int, tile_t: int) -> dict[str, Any]:
    """A smaller tile of GEMM 1 for experts with many rows, where they are few tiles."""
    return {"small_tiles": tiles, "small_tile_t": tile_t}


HOPPER: tuple[tuple[int, int | None, dict[str, Any]], ...] = (
    (0, 32, _swapped(8)),
    (0, 16, _swapped(8, order="weights")),
    (0, 8, _SPLIT_K),
    (9, 32, {**_swapped(16), "narrow_tiles": 2}),
    (17, 64, {**_swapped(32, narrow=16), "narrow_tiles": 2}),
    (9, 32, {**_swapped(16), **_FED}),
    (17, 128, {**_swapped(8), **_many(8, 64, 128, 128)}),
    (17, 128, _NARROW),
    (33, 128, {**_swapped(8), **_FED}),
    (33, 256, {**_swapped(8), **_many(8, 64, 128, 128), **_FED}),
    (33, 128, {**_swapped(8), **_many(8, 64, 256, 128), **_small(4, 64)}),
    (65, 512, {**_swapped(16), **_many(16, 128, 128, 256), **_BESIDE, **_FED}),
    (129, 512, {**_NARROW_PAIRS, **_many(32, 128, 128, 256), **_TWICE_BUSY, **_BESIDE, **_FED}),
    (129, 512, {**_NARROW_PAIRS, **_many(32, 128, 256, 128, "weights"), **_TWICE_BUSY, **_PERMUTED, **_FED}),
    (129, 1024, {**_NARROW_PAIRS, **_FED}),
    (129, 2048, {**_swapped(16), **_many(16, 128, 256, 128, "weights"), **_small(4, 64)}),
    (257, 1024, {**_swapped(16), **_many(16, 128, 128, 256), **_PERMUTED}),
    (257, 512, {**_swapped(32, narrow=16), **_many(64, 128, 256, 128, "weights"), **_BESIDE, **_FED}),
    (513, 2048, {**_NARROW_PAIRS, **_many(32, 128, 256, 256, "weights"), "crowded_rows": 128, **_PERMUTED}),
    (513, 2048, {**_NARROW_PAIRS, **_many(16, 128, 256, 256, "weights"), "crowded_rows": 128, **_BESIDE, **_FED}),
    (513, None, {**_SHARED_HALVES, **_many(16, 128, 256, 256, "weights"), "crowded_rows": 256, **_BESIDE, **_FED}),
    (513, None, {**_swapped(16), **_many(16, 128, 256, 256, "weights"), **_BESIDE, **_FED}),
    (1025, None, _SHARED_WEIGHTS),
    (1025, 2048, _SHARED_HALVES),
    (1025, None, {**_SHARED_WEIGHTS, **_BESIDE, **_FED}),
    (1025, 2048, {**_SHARED_HALVES, **_BESIDE, **_FED}),
    (2049, None, {**_swapped(16), **_many(16, 128, 256, 256, "weights"), **_PERMUTED}),
    (2049, None, {**_SHARED_WEIGHTS, "order": "mixed"}),
)
"""(smallest size, largest size or None, what differs from the default)."""

_FEW_ROWS: dict[str, Any] = {
    "combine": "atomic_f32",
    "order": "weights",
    **{"tile_w_1": 256, "stages_1": 3, "tile_w_2": 128, "stages_2": 5},
    **{f"{name}_{i}": value for i in (1, 2) for name, value in (("swap", True), ("k_tile", 256), ("acc_stages", 2))},
}
_PAIRS: dict[str, Any] = {"gather": "kernel", "combine": "atomic_bf16", **PAIRS}
_FORECAST_1: dict[str, Any] = {
    **{"sms": 128, "combine": "atomic_bf16", "tile_w_1": 128, "cluster_w_1": 2, "tile_w_2": 64, "k_tile_2": 256},
    **{f"{name}_{i}": value for i in (1, 2) for name, value in (("swap", True), ("mma_m", 64), ("tile_t", 8))},
    **{f"{name}_{i}": value for i in (1, 2) for name, value in (("stages", 12), ("acc_stages", 4))},
}
_FORECAST_2: dict[str, Any] = {
    **{"sms": 144, "combine": "atomic_bf16", "swap_1": True, "mma_m_1": 64, "tile_t_1": 8, "tile_w_1": 64},
    **{"cluster_w_1": 4, "k_tile_1": 256, "swap_2": True, "tile_t_2": 16, "tile_w_2": 128, "cluster_w_2": 2},
    **{f"{name}_{i}": value for i in (1, 2) for name, value in (("stages", 12), ("acc_stages", 4))},
}
_FORECAST_3: dict[str, Any] = {
    **{"combine": "atomic_bf16", "narrow": 32, "tile_t_1": 96, "tile_w_1": 128, "cluster_w_1": 2, "k_tile_1": 256},
    **{f"{name}_{i}": value for i in (1, 2) for name, value in (("swap", True), ("mma_m", 256), ("acc_stages", 4))},
    **{"tile_t_2": 32, "cluster_w_2": 4, "stages_2": 6},
}
_SPLIT: dict[str, Any] = {
    **{"combine": "atomic_bf16", "split_rows": 16, "many_mma_m": 256, "many_cluster_w": 2},
    **{f"{name}_{i}": value for i in (1, 2) for name, value in (("swap", True), ("tile_t", 16), ("stages", 6))},
}
_FORECAST_4: dict[str, Any] = {**_SPLIT, "handover": True}
_SCALED: dict[str, Any] = {f"{name}_{i}": value for i in (1, 2) for name, value in (("scaled", True), ("stages", 5))}
BLACKWELL: tuple[tuple[int, int | None, dict[str, Any]], ...] = (
    (0, 16, _FORECAST_1),
    (17, 256, _FORECAST_2),
    (257, 2048, _FORECAST_3),
    (2049, None, _FORECAST_4),
    (2049, None, {**_FORECAST_4, "fallback": True}),
    (2049, None, {**_SPLIT, **_SCALED}),
    (0, 16, {**_FEW_ROWS, "tile_t_1": 8, "tile_t_2": 8, "split_k_2": 2, "mma_m_1": 64, "mma_m_2": 64}),
    (0, 256, {**_FEW_ROWS, "tile_t_1": 16, "tile_t_2": 16}),
    (257, 4096, {**_FEW_ROWS, "tile_t_1": 32, "tile_t_2": 32}),
    (17, 512, {**_FEW_ROWS, "tile_t_1": 64, "tile_t_2": 64, "narrow": 16, "stages_1": 2, "stages_2": 4}),
    (1025, None, _PAIRS),
    (1025, None, {**_PAIRS, "cluster_w_1": 2, "cluster_w_2": 2, "order": "mixed"}),
)
"""The same for Blackwell. Forecasts, no measurements: nobody of us has run one. The first three are what the model
expects most of in each regime (``benchmarks.search_physics.forecast``, docs/b200.md), the fourth is what an
earlier fit of it did, with smaller tiles of few rows, since those spilled. The others were reasoned by hand. Rows of
GEMM 2 handed over take 6 to 11 % off a tile. The model says nothing of ``fallback``, which costs it nothing: it is for
a GPU that has no room for 37 clusters of four. Scaled MMAs are for definitions that promise powers of two, elsewhere it
is no start.

Few rows wait for the weights: the weights are M, so that a tile has few columns, and the stages keep 160 to 190 KB
on their way. A wide tile with a second N is for routings that crowd a few experts, as on Hopper. Many rows wait for the
tensor cores: one CTA with 128 x 256 is held at two thirds of their rate by the shared memory port, a pair with
256 x 256 is not; clusters of two pairs also halve the token rows' traffic to the L2.
"""
