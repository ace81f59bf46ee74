"""From a config and a definition's sizes to the plans of both GEMMs: plain Python for constraints, build and host."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .budget import BLOCK, GemmPlan
from .plans_sm100 import SMS_BLACKWELL, is_blackwell, plans_sm100

SMS = 132
"""SMs of an H100 or H200 SXM."""


def plans(config: Mapping[str, Any], sizes: Mapping[str, Any]) -> tuple[GemmPlan, GemmPlan]:
    """The first and the second GEMM of a config, for the architecture whose parameters it has."""
    return plans_sm100(config, sizes) if is_blackwell(config) else _plans_sm90(config, sizes)


def sm_count(config: Mapping[str, Any]) -> int:
    """SMs of the GPU that a config is for."""
    return SMS_BLACKWELL if is_blackwell(config) else SMS


def _plans_sm90(config: Mapping[str, Any], sizes: Mapping[str, Any]) -> tuple[GemmPlan, GemmPlan]:
    fused = config["requant"] == "fused"
    common = {"experts": sizes["local_experts"], "pdl": config["pdl"], "order": config["order"]}
    first = GemmPlan(
        role="gate_up",
        n=2 * sizes["intermediate"],
        k=sizes["hidden"],
        swap=config["swap_1"],
        tile_t=config["tile_t_1"],
        tile_w=config["tile_w_1"],
        groups=config["groups_1"],
        stages=config["stages_1"],
        out="act" if fused else "partial",
        gather=config["gather"] == "fused",
        overlap=config["swap_1"],
        occupancy=config["ctas_per_sm_1"],
        alternate=config["alternate"] and takes_turns(config, 1),
        ctas=config["sms"] * config["ctas_per_sm_1"],
        split_k=config["split_k_1"],
        shared=config["multicast_1"],
        **common,
    )
    second = GemmPlan(
        role="down",
        n=sizes["hidden"],
        k=sizes["intermediate"],
        swap=config["swap_2"],
        tile_t=config["tile_t_2"],
        tile_w=config["tile_w_2"],
        groups=config["groups_2"],
        stages=config["stages_2"],
        out="rows" if config["combine"] == "finalize" else config["combine"],
        overlap=config["swap_2"],
        occupancy=config["ctas_per_sm_2"],
        alternate=config["alternate"] and takes_turns(config, 2),
        ctas=config["sms"] * config["ctas_per_sm_2"],
        split_k=config["split_k_2"],
        shared=config["multicast_2"],
        early_weights=config["early_weights"],
        **common,
    )
    return first, second


def takes_turns(config: Mapping[str, Any], i: int) -> bool:
    """Whether GEMM ``i`` has two warpgroups that multiply equally often and do not overlap promotion by themselves."""
    return not config[f"swap_{i}"] and config[f"groups_{i}"] == 2 and config[f"tile_t_{i}"] == 128


def row_align(config: Mapping[str, Any]) -> int:
    """Rows that an expert's segment is filled up to: token tiles of both GEMMs, on Blackwell whole clusters."""
    return math.lcm(*(config[f"tile_t_{i}"] * config.get(f"cluster_t_{i}", 1) for i in (1, 2)))


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
