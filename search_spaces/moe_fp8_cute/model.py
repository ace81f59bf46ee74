"""How long a config of the pipeline takes: what each kernel waits for, from the rows of each expert.

Docs: docs/results/search-physics.md says how well it does on recordings it was not fitted to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Any

from search_spaces.moe_fp8_cute.model_gemm import FittedConstants, Rows, finished, first_rows_us, gemm, ring_us, serves
from search_spaces.moe_fp8_cute.solution.budget import GemmPlan
from search_spaces.moe_fp8_cute.solution.plans import few_rows, launches, row_align
from search_spaces.prediction.model import Hardware, KernelPrediction, Model, Prediction, WorkloadFeatures

FITTED = FittedConstants()
ROUTING_US = 3.4
"""Of one token: 7.5 us, where a tiny kernel shows 4.1 (H200, docs/kernels.md)."""
ROUTING_US_PER_TOKEN = 1.25e-3
"""25.1 us at 14,107 tokens, 7.5 at one (H200, docs/kernels.md)."""
GRID_BARRIER_US = 1.0
"""Above 128 tokens routing counts through a grid barrier instead of a cluster (H200, docs/kernels.md)."""

FEED_SHARE = 0.75
"""Of GEMM 1's tail that GEMM 2 fills where it takes over tile by tile: 445 of 575 us, the sum over ten routings of 3 to
13 waves (H200, docs/results/prefill.md); single ones 0.3 to 1.2. It has only those tiles for it whose rows are there
before GEMM 1's last wave: none, where all of GEMM 1 is one wave."""


def predict(
    config: Mapping[str, Any],
    sizes: Mapping[str, Any],
    features: WorkloadFeatures,
    hw: Hardware,
    constants: FittedConstants = FITTED,
) -> Prediction:
    """What a config should take on a workload.

    Args:
        config: A valid config of the space for ``hw``.
        sizes: The definition's constants.
        features: ``seq_len``, and ``rows_per_expert`` of the local experts; even routing where they are unknown.
        hw: The GPU.
        constants: Of the kernels.
    """
    tokens = int(features.axes["seq_len"])
    rows = features.counts.get("rows_per_expert") or even_rows(tokens, sizes)
    return Prediction(tuple(_kernels(config, sizes, tokens, rows, hw, constants)), fixed_us=hw.launch_us)


@lru_cache(maxsize=1024)
def _even(tokens: int, top_k: int, experts: int, local: int) -> Rows:
    mean = tokens * top_k / experts
    out = []
    for i in range(local):
        # Quantiles of a Poisson distribution: evenly routed experts do not get equally many rows.
        wanted, count, chance = (i + 0.5) / local, 0, math.exp(-mean) if mean < 700 else 0.0
        if not chance or mean > 100:
            out.append(round(mean + math.sqrt(mean) * NormalDist().inv_cdf(wanted)))
            continue
        total = chance
        while total < wanted:
            count += 1
            chance *= mean / count
            total += chance
        out.append(count)
    return tuple(out)


def even_rows(tokens: int, sizes: Mapping[str, Any]) -> Rows:
    """Rows of each local expert where every expert is as likely as any other."""
    return _even(tokens, sizes["top_k"], sizes["experts"], sizes["local_experts"])


class MoeModel(Model):
    """The model of one definition on one target.

    Args:
        sizes: The definition's constants.
    """

    def __init__(self, sizes: Mapping[str, Any]) -> None:
        self._sizes = dict(sizes)

    def predict(self, config: Mapping[str, Any], features: WorkloadFeatures, hardware: Hardware) -> Prediction:
        return predict(config, self._sizes, features, hardware)


@lru_cache(maxsize=8)
def _launches(config: tuple, sizes: tuple) -> list[tuple[str, GemmPlan]]:
    """Of one config on several workloads."""
    return launches(dict(config), dict(sizes))


def _tail_us(kernels: Sequence[KernelPrediction]) -> float:
    """Of the last of them that had tiles."""
    return max(0.0, next((k.losses_us["tail"] for k in reversed(kernels) if "tail" in k.losses_us), 0.0))


def _kernels(
    config: Mapping[str, Any], sizes: Mapping[str, Any], tokens: int, rows: Rows, hw: Hardware, k: FittedConstants
) -> list[KernelPrediction]:
    # Of the two bounds that a config may have, the one of this call.
    config = {**config, "split_rows": few_rows(config, rows)}
    hidden, inter = sizes["hidden"], sizes["intermediate"]
    step = hw.programmatic_us if config["pdl"] else hw.dependency_us
    local, combine = sum(rows), config["combine"]

    def mover(name: str, moved: float) -> KernelPrediction:
        bytes_us = moved / (hw.hbm_bytes_per_us * k.small_share)
        return KernelPrediction(name, step + k.small_us + bytes_us, {"hbm": bytes_us, "launch": step + k.small_us})

    out = [mover("zero", tokens * hidden * 4)] if combine == "atomic_f32" else []
    routing = ROUTING_US + tokens * ROUTING_US_PER_TOKEN + (GRID_BARRIER_US if tokens > 128 else 0.0)
    out.append(KernelPrediction("routing", routing, {"dependent steps": routing}))
    if config["gather"] in ("kernel", "many"):
        above = config["split_rows"] if config["gather"] == "many" else 0
        out.append(mover("permute", sum(count for count in rows if count > above) * hidden * 2))
    plans = _launches(tuple(config.items()), tuple(sizes.items()))
    if first_us := [first_rows_us(plan, rows, hw) for _, plan in plans if plan.copies and serves(plan, rows)]:
        out.append(KernelPrediction("first rows", first_us[0], {"dependent steps": first_us[0]}))
    cleared = tokens * hidden * 2 if combine == "atomic_bf16" else 0
    # The launch for many rows clears the output where it has any.
    clears = next((name for name, plan in plans if plan.above and plan.paired and serves(plan, rows)), "moe_gemm_1")
    streams = next((name for name, plan in plans if not plan.paired and serves(plan, rows)), "moe_gemm_2")
    there = 0.0  # of the rows of GEMM 2, before the last wave of GEMM 1
    for name, plan in plans:
        if plan.paired and serves(plan, rows):
            there = finished(plan, rows, hw)
        one = gemm(name, plan, rows, hw, k, cleared if name == clears else 0)
        waited = 0.0 if plan.chained else step
        if name == streams and plan.early_weights and config["requant"] == "fused":
            waited -= k.fill_us + k.early * min(ring_us(plan, hw), _tail_us(out))
        if name == streams and plan.fed:
            waited -= min(FEED_SHARE * _tail_us(out), there * one.us)
        out.append(KernelPrediction(name, max(one.us + waited, 0.0), one.resources_us, one.losses_us))
        if name == "moe_gemm_1" and plan.out == "partial":
            align = row_align(config)
            filled = sum(math.ceil(count / align) * align for count in rows)
            out.append(mover("act_quant", filled * inter * (8 * plan.split_k + 1)))
    if combine == "finalize":
        out.append(mover("finalize", (local + tokens) * hidden * 2))
    if combine == "atomic_f32":
        out.append(mover("cast", tokens * hidden * 6))
    return out
