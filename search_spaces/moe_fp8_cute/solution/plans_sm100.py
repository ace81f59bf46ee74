"""From a Blackwell config to the plans of both GEMMs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .budget_sm100 import BlackwellPlan

SMS_BLACKWELL = 148
"""SMs of a B200."""


def is_blackwell(config: Mapping[str, Any]) -> bool:
    """Whether a config belongs to the space of sm_100a: only that one has accumulator stages."""
    return "acc_stages_1" in config


def plans_sm100(config: Mapping[str, Any], sizes: Mapping[str, Any]) -> tuple[BlackwellPlan, BlackwellPlan]:
    """The first and the second GEMM of a config."""
    first = BlackwellPlan(
        role="gate_up",
        n=2 * sizes["intermediate"],
        k=sizes["hidden"],
        out="act" if config["requant"] == "fused" else "partial",
        gather=config["gather"] != "kernel",
        gather4=config["gather"] == "tma",
        zeroes=config["combine"] == "atomic_bf16",
        **_common(config, sizes, 1),
    )
    second = BlackwellPlan(
        role="down",
        n=sizes["hidden"],
        k=sizes["intermediate"],
        out="rows" if config["combine"] == "finalize" else config["combine"],
        early_weights=config["early_weights"],
        **_common(config, sizes, 2),
    )
    return first, second


def _common(config: Mapping[str, Any], sizes: Mapping[str, Any], i: int) -> dict[str, Any]:
    """What both plans read from parameters of the same form."""
    mma_m, occupancy = config[f"mma_m_{i}"], config[f"ctas_per_sm_{i}"]
    return {
        "experts": sizes["local_experts"],
        "swap": config[f"swap_{i}"],
        "tile_t": config[f"tile_t_{i}"],
        "tile_w": config[f"tile_w_{i}"],
        "groups": 1 if mma_m == 64 else 2,
        "pair": mma_m == 256,
        "stages": config[f"stages_{i}"],
        "k_tile": config[f"k_tile_{i}"],
        "acc_stages": config[f"acc_stages_{i}"],
        "along_w": config[f"cluster_w_{i}"],
        "along_t": config[f"cluster_t_{i}"],
        "overlap": False,
        "occupancy": occupancy,
        "ctas": config["sms"] * occupancy,
        "split_k": config[f"split_k_{i}"],
        "pdl": config["pdl"],
        "order": config["order"],
    }
