"""The plans of both GEMMs from a config and a definition's sizes; plain Python for constraints, build and host."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from .budget import BLOCK, UNBOUNDED, GemmPlan
from .plans_sm100 import (
    SMS_BLACKWELL,
    common,
    is_blackwell,
    many_plans_sm100,
    many_rows_sm100,
    narrow,
    plans_sm100,
    second_gemm,
)

SMS = 132
"""SMs of an H100 or H200 SXM."""
MANY_STAGES = 6
"""Stages of the GEMMs over experts with many rows, or as many as fit."""
SMALL_STAGES = 8
"""The same of GEMM 1 where these experts are few tiles: its weights are waited for."""


def plans(config: Mapping[str, Any], sizes: Mapping[str, Any]) -> tuple[GemmPlan, GemmPlan]:
    """The first and the second GEMM of a config, for the architecture whose parameters it has.

    Where ``split_rows`` divides the experts, these serve the ones with few rows; :func:`many_plans` has the others.
    """
    return plans_sm100(config, sizes) if is_blackwell(config) else _plans_sm90(config, sizes)


def many_plans(config: Mapping[str, Any], sizes: Mapping[str, Any]) -> tuple[GemmPlan, ...]:
    """Both GEMMs over the experts with more than ``split_rows`` rows, tokens as M; empty where one form serves all.

    Where ``small_tiles`` has a second form of GEMM 1 for them, for when they are few tiles, its plan follows.
    """
    if not config["split_rows"]:
        return ()
    if is_blackwell(config):
        return many_plans_sm100(config, sizes)
    return *_many_sm90(config, sizes), *([_small_sm90(config, sizes)] if config["small_tiles"] else ())


def launches(config: Mapping[str, Any], sizes: Mapping[str, Any]) -> list[tuple[str, GemmPlan]]:
    """Name and plan of every GEMM kernel of a config, in the order in which they are launched.

    Of the launches of a GEMM all but the first start beside the one before (``GemmPlan.chained``). Those of few rows
    stand next to each other: GEMM 2 streams its weights while the last tiles of GEMM 1 are stored.
    """
    first, second = plans(config, sizes)
    named = [("moe_gemm_1", first), ("moe_gemm_2", second)]
    if many := many_plans(config, sizes):
        named = [("moe_gemm_1_many", many[0]), *named, ("moe_gemm_2_many", many[1])]
        named = [*(("moe_gemm_1_small", plan) for plan in many[2:]), *named]
    return named


def few_rows(config: Mapping[str, Any], counts: Iterable[int]) -> int:
    """The most rows of an expert that the launches for few rows serve in a call whose experts have ``counts``.

    What :meth:`sched.TileTable.bound` decides on the device; 0 where one launch serves all.
    """
    rows: int = config["split_rows"]
    crowded, total = config["crowded_rows"], config["crowded_total"]
    if sum(count for count in counts if count > crowded) > total:
        return rows
    return UNBOUNDED if total else max(rows, crowded)


def sm_count(config: Mapping[str, Any]) -> int:
    """SMs of the GPU that a config is for."""
    return SMS_BLACKWELL if is_blackwell(config) else SMS


def _plans_sm90(config: Mapping[str, Any], sizes: Mapping[str, Any]) -> tuple[GemmPlan, GemmPlan]:
    shared = common(config, sizes)
    first = GemmPlan(
        **_first(config, sizes),
        **_feed(config),
        gather=_gathers(config),
        copies=config["gather"] == "beside" and not _gathers(config),
        clear=config["clear"],
        swap=config["swap_1"],
        tile_t=config["tile_t_1"],
        tile_w=config["tile_w_1"],
        groups=config["groups_1"],
        stages=config["stages_1"],
        overlap=config["swap_1"],
        ctas_per_sm=config["ctas_per_sm_1"],
        alternate=config["alternate"] and takes_turns(config, 1),
        ctas=config["sms"] * config["ctas_per_sm_1"],
        split_k=config["split_k_1"],
        multicast=config["multicast_1"],
        **_narrow(config, 1),
        upto=config["split_rows"],
        chained=config["split_rows"] > 0,
        **shared,
    )
    second = GemmPlan(
        **second_gemm(config, sizes),
        **_feed(config, first),
        swap=config["swap_2"],
        tile_t=config["tile_t_2"],
        tile_w=config["tile_w_2"],
        groups=config["groups_2"],
        stages=config["stages_2"],
        overlap=config["swap_2"],
        ctas_per_sm=config["ctas_per_sm_2"],
        alternate=config["alternate"] and takes_turns(config, 2),
        ctas=config["sms"] * config["ctas_per_sm_2"],
        split_k=config["split_k_2"],
        multicast=config["multicast_2"],
        **_narrow(config, 2),
        early_weights=config["early_weights"],
        upto=config["split_rows"],
        **shared,
    )
    return first, second


def _gathers(config: Mapping[str, Any]) -> bool:
    """Whether GEMM 1 gathers where one launch serves all experts, or the launch for those of few rows."""
    return config["gather"] == "fused" or (config["gather"] in ("many", "beside") and config["split_rows"] > 0)


def _feed(config: Mapping[str, Any], first: GemmPlan | None = None) -> dict[str, Any]:
    """How GEMM 2 gets its rows: of GEMM 1, or of the GEMM 2 whose GEMM 1 is ``first``."""
    if first is None or not first.by_tiles:
        return {"feed": config["feed"]}
    return {"feed": config["feed"], "finished_tiles": first.weight_tiles, "clearing_ctas": first.ctas}


def _narrow(config: Mapping[str, Any], i: int) -> dict[str, Any]:
    """The second N of GEMM ``i``, and when all tiles are of that size."""
    rows = narrow(config, i)
    return {"narrow": rows, "narrow_tiles": config["narrow_tiles"]} if rows else {}


def _first(config: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
    """What all plans of GEMM 1 have in common."""
    out = "act" if config["requant"] == "fused" else "partial"
    return {"role": "gate_up", "n": 2 * sizes["intermediate"], "k": sizes["hidden"], "out": out}


def _many_sm90(config: Mapping[str, Any], sizes: Mapping[str, Any]) -> tuple[GemmPlan, GemmPlan]:
    tile_t = config["many_tile_t"]
    plans: list[GemmPlan] = []
    for i in (1, 2):
        tile_w = config[f"many_tile_w_{i}"]
        ctas_per_sm = config["many_ctas_per_sm"] if tile_t == 64 and tile_w == 128 else 1
        plan = _above_sm90(config, sizes, i, tile_t, tile_w, MANY_STAGES, ctas_per_sm)
        chained = i == 2 or config["small_tiles"] > 0
        plan = replace(
            plan, multicast=config["many_multicast"], chained=chained, **_feed(config, plans[0] if plans else None)
        )
        plans.append(_fitting(plan))
    return plans[0], plans[1]


def _small_sm90(config: Mapping[str, Any], sizes: Mapping[str, Any]) -> GemmPlan:
    """GEMM 1 over experts with many rows that are few tiles: narrow tiles, so that more SMs have one.

    GEMM 2 has about twice as many tiles, and every launch more costs 1 us.
    """
    return _fitting(replace(_above_sm90(config, sizes, 1, config["small_tile_t"], BLOCK, SMALL_STAGES), small=True))


def _above_sm90(
    config: Mapping[str, Any], sizes: Mapping[str, Any], i: int, tile_t: int, tile_w: int, stages: int, per_sm: int = 1
) -> GemmPlan:
    """A launch of GEMM ``i`` over experts with many rows."""
    return GemmPlan(
        **(_first(config, sizes) if i == 1 else second_gemm(config, sizes)),
        swap=False,
        tile_t=tile_t,
        tile_w=tile_w,
        groups=1 if tile_t == 64 else 2,
        stages=stages,
        overlap=False,
        ctas_per_sm=per_sm,
        ctas=config["sms"] * per_sm,
        gather=i == 1 and config["gather"] == "fused",
        copies=i == 1 and config["gather"] == "beside",
        clear=config["clear"],
        early_weights=i == 2 and config["early_weights"],
        above=config["split_rows"],
        small_rows=config["small_tile_t"] if i == 1 and config["small_tiles"] else 0,
        small_tiles=config["small_tiles"] if i == 1 else 0,
        **common(config, sizes),
    )


def _fitting(plan: GemmPlan) -> GemmPlan:
    """The plan with as many of its stages as fit."""
    while plan.stages > 3 and plan.problem() is not None:
        plan = replace(plan, stages=plan.stages - 1)
    return plan


def takes_turns(config: Mapping[str, Any], i: int) -> bool:
    """Whether GEMM ``i`` has two warpgroups that multiply equally often and do not overlap promotion by themselves."""
    return not config[f"swap_{i}"] and config[f"groups_{i}"] == 2 and config[f"tile_t_{i}"] == 128


def row_align(config: Mapping[str, Any]) -> int:
    """Rows that an expert's segment is filled up to: token tiles of all GEMMs, on Blackwell whole clusters."""
    tiles = [config[f"tile_t_{i}"] * config.get(f"cluster_t_{i}", 1) for i in (1, 2)]
    if config["split_rows"]:
        tiles.append(many_rows_sm100(config) if is_blackwell(config) else config["many_tile_t"])
        if config.get("small_tiles"):
            tiles.append(config["small_tile_t"])
    return math.lcm(*tiles)


def row_capacity(config: Mapping[str, Any], sizes: Mapping[str, Any], tokens: int) -> int:
    """Rows that any routing of ``tokens`` tokens can need, filling rows included."""
    align, experts = row_align(config), sizes["local_experts"]
    if config["layout"] == "batched":
        return experts * batch_rows(config, tokens)
    pairs = tokens * min(sizes["top_k"], experts)
    spread = pairs + min(pairs, experts) * (align - 1)
    packed = experts * batch_rows(config, tokens)
    return -(-min(spread, packed) // align) * align


def batch_rows(config: Mapping[str, Any], tokens: int) -> int:
    """Rows of one expert in the batched layout: all tokens, filled up."""
    align = row_align(config)
    return -(-tokens // align) * align


def blocks(extent: int) -> int:
    """Scale blocks along an extent."""
    return extent // BLOCK
