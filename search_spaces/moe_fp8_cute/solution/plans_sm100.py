"""From a Blackwell config to the plans of both GEMMs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .budget_sm100 import BlackwellPlan

SMS_BLACKWELL = 148
"""SMs of a B200."""


def is_blackwell(config: Mapping[str, Any]) -> bool:
    """Whether a config belongs to the space of sm_100a, the only one with accumulator stages.

    Plans are made from a config and sizes alone, also where no target is known.
    """
    return "acc_stages_1" in config


def plans_sm100(config: Mapping[str, Any], sizes: Mapping[str, Any]) -> tuple[BlackwellPlan, BlackwellPlan]:
    """The first and the second GEMM of a config."""
    few = {"upto": config["split_rows"]}
    shared = common(config, sizes) | {"fallback": config["fallback"]}
    first = BlackwellPlan(
        **_first(config, sizes), **_tile(config, 1), chained=config["split_rows"] > 0, **few, **shared
    )
    second = BlackwellPlan(
        **second_gemm(config, sizes),
        **_tile(config, 2),
        early_weights=config["early_weights"],
        handover=config["handover"] and not config["swap_2"],
        **few,
        **shared,
    )
    return first, second


def many_plans_sm100(config: Mapping[str, Any], sizes: Mapping[str, Any]) -> tuple[BlackwellPlan, BlackwellPlan]:
    """Both GEMMs over the experts with more than ``split_rows`` rows: tokens as M, 256 weight rows."""
    pair = config["many_mma_m"] == 256
    tile: dict[str, Any] = {"swap": False, "tile_t": 128, "tile_w": 256, "groups": 2, "pair": pair}
    tile |= {"cluster_t": 2 if pair else 1, "overlap": False}
    tile |= {"cluster_w": config["many_cluster_w"], "ctas": config["sms"], "above": config["split_rows"]}
    tile |= {"fallback": config["fallback"]}
    first = BlackwellPlan(**_first(config, sizes), **tile, **_many_stages(config, 1), **common(config, sizes))
    second = BlackwellPlan(
        **second_gemm(config, sizes),
        **tile,
        **_many_stages(config, 2),
        chained=True,
        handover=config["handover"],
        early_weights=config["early_weights"],
        **common(config, sizes),
    )
    return first, second


def _many_stages(config: Mapping[str, Any], i: int) -> dict[str, Any]:
    """Stages and accumulators. Beside the factors of scaled MMAs is room for the sums of one tile of 256 columns, and
    two K blocks a stage halve the factors' way through shared memory."""
    pair = config["many_mma_m"] == 256
    if not config[f"scaled_{i}"]:
        return {"stages": 5 if pair else 4 - (i == 2 and config["handover"]), "acc_stages": 2}
    return {"scaled": True, "acc_stages": 1, **({"stages": 3, "k_tile": 256} if pair else {"stages": 4})}


def many_rows_sm100(config: Mapping[str, Any]) -> int:
    """Token rows of a cluster of :func:`many_plans_sm100`."""
    return 256 if config["many_mma_m"] == 256 else 128


def _first(config: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
    """What all plans of GEMM 1 have in common."""
    return {
        "role": "gate_up",
        "n": 2 * sizes["intermediate"],
        "k": sizes["hidden"],
        "out": "act" if config["requant"] == "fused" else "partial",
        "gather": config["gather"] != "kernel",
        "gather4": config["gather"] == "tma",
        "zeroes": config["combine"] == "atomic_bf16",
        "power_of_two": config["scaled_2"],
    }


def second_gemm(config: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
    """What all plans of GEMM 2 have in common, on both architectures."""
    return {"role": "down", "n": sizes["hidden"], "k": sizes["intermediate"], "out": config["combine"]}


def common(config: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
    """What all plans have in common, on both architectures."""
    shared = {"experts": sizes["local_experts"], "pdl": config["pdl"], "order": config["order"]}
    return shared | {"crowded": config["crowded_rows"], "crowded_total": config["crowded_total"]}


def narrow(config: Mapping[str, Any], i: int) -> int:
    """The second N of GEMM ``i``, 0 for none: only swapped tiles of more tokens have one. On both architectures."""
    return config["narrow"] if config[f"swap_{i}"] and config[f"tile_t_{i}"] > config["narrow"] else 0


def _tile(config: Mapping[str, Any], i: int) -> dict[str, Any]:
    """The fields that come from the parameters of GEMM ``i``."""
    mma_m, ctas_per_sm = config[f"mma_m_{i}"], config[f"ctas_per_sm_{i}"]
    return {
        "swap": config[f"swap_{i}"],
        "tile_t": config[f"tile_t_{i}"],
        "tile_w": config[f"tile_w_{i}"],
        "groups": 1 if mma_m == 64 else 2,
        "pair": mma_m == 256,
        "stages": config[f"stages_{i}"],
        "k_tile": config[f"k_tile_{i}"],
        "acc_stages": config[f"acc_stages_{i}"],
        "cluster_w": config[f"cluster_w_{i}"],
        "cluster_t": config[f"cluster_t_{i}"],
        "overlap": False,
        "ctas_per_sm": ctas_per_sm,
        "ctas": config["sms"] * ctas_per_sm,
        "split_k": config[f"split_k_{i}"],
        "narrow": narrow(config, i),
        "scaled": config[f"scaled_{i}"],
    }
