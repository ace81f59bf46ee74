"""Input profiles of the MoE op: how tokens spread over the experts. Used as an input generator, as text.

The logits have random noise over which the profile is laid, so that no two experts tie. With groups of experts, a
token's experts come from its best groups, so the shares are near those that the profile asks for, not exactly these;
``tuner profile`` says what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from search_spaces.moe_fp8.reading import Reading, read

PROFILES = {
    "uniform": "every expert alike",
    "zipf:EXPONENT": "an expert's share falls with its rank to this power; the first one is local",
    "hot:COUNT": "every token goes to these local experts and to no other local one",
    "none_local": "no token has a local expert",
    "alike": "all tokens have the same experts",
}
FILLS = ("routing_logits", "routing_bias")
MODEL_SEED = 20260203
"""Which expert has which rank belongs to the model, not to the batch."""


def fill(
    name: str, number: float | None, definition: Mapping[str, Any], workload: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """``routing_logits`` float32 [T, E] and, where the op has one, ``routing_bias`` [E] of zeros."""
    moe = read(definition)
    tokens = workload["axes"][definition["inputs"]["routing_logits"]["shape"][0]]
    low, high = _local(moe, workload)
    rng = np.random.default_rng([MODEL_SEED, seed])
    wish = rng.gumbel(0.0, 1.0, (tokens, moe.experts))
    if name == "zipf" and number is not None:
        order = np.random.default_rng(MODEL_SEED).permutation(moe.experts)
        order = np.roll(order, -int(np.argmax((order >= low) & (order < high))))
        wish[:, order] -= number * np.log(np.arange(1, moe.experts + 1))
    elif name == "alike":
        wish[:] = wish[:1]
    elif name in ("hot", "none_local"):
        count = int(number or 0)
        _check_hot(count, number, moe, low, high)
        wish = np.minimum(wish, 3.0) - 4.0  # no group without hot experts beats one that has them
        wish[:, low:high] = -20.0 - np.abs(wish[:, low:high])
        wish[:, low : low + count] = 12.0 + 0.1 * np.arange(count)
    if moe.routing == "renorm":
        return {"routing_logits": _distinct_bfloat16(wish)}
    return {"routing_logits": wish.astype(np.float32), "routing_bias": np.zeros(moe.experts, np.float32)}


def describe(definition: Mapping[str, Any], workload: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Rows (pairs of a token and a local expert), active experts, rows of each local expert."""
    moe = read(definition)
    low, high = _local(moe, workload)
    logits = np.asarray(inputs["routing_logits"], np.float32)
    bias = np.asarray(inputs.get("routing_bias", np.zeros(moe.experts)), np.float32)
    chosen = _chosen(logits, bias, moe)
    rows = np.bincount(chosen.ravel(), minlength=moe.experts)[low:high]
    active = rows[rows > 0]
    quantiles = np.quantile(active, (0.25, 0.5, 0.75)) if len(active) else np.zeros(3)
    return {
        "rows": int(rows.sum()),
        "active": len(active),
        "rows_q25": float(quantiles[0]),
        "rows_q50": float(quantiles[1]),
        "rows_q75": float(quantiles[2]),
        "rows_max": int(rows.max(initial=0)),
        "busiest": float(rows.max(initial=0) / max(1, rows.sum())),
        "rows_per_expert": sorted(rows.tolist(), reverse=True),
    }


def _chosen(logits: Any, bias: Any, moe: Reading) -> Any:
    """Experts of each token, [T, top_k]."""
    tokens = len(logits)
    if moe.routing == "renorm":
        return np.argsort(-logits, axis=1, kind="stable")[:, : moe.top_k]
    scores = 1.0 / (1.0 + np.exp(-logits)) + bias
    groups = scores.reshape(tokens, moe.groups, -1)
    if moe.groups > 1:
        best = np.sort(groups, axis=2)[:, :, -2:].sum(axis=2)
        dropped = np.argsort(-best, axis=1, kind="stable")[:, moe.topk_groups :]
        np.put_along_axis(groups, dropped[:, :, None], -np.inf, axis=1)
    return np.argsort(-groups.reshape(tokens, -1), axis=1, kind="stable")[:, : moe.top_k]


def _local(moe: Reading, workload: Mapping[str, Any]) -> tuple[int, int]:
    """First local expert and the one behind the last."""
    offset = int(workload["inputs"].get("local_expert_offset", {}).get("value", 0))
    low = min(max(offset, 0), moe.experts)
    return low, max(low, min(offset + moe.local_experts, moe.experts))


def _check_hot(count: int, number: float | None, moe: Reading, low: int, high: int) -> None:
    size = moe.experts // moe.groups
    touched = len({expert // size for expert in range(low, low + count)})
    if number is None:
        if high - low > moe.experts - max(moe.top_k, (moe.groups - moe.topk_groups) * size):
            raise ValueError("so many experts are local that every token has one")
    elif count != number or not 1 <= count <= min(moe.top_k, high - low) or touched > moe.topk_groups:
        most = min(moe.top_k, high - low)
        raise ValueError(f"hot experts are 1 to {most}, in at most {moe.topk_groups} groups of {size}")


def _distinct_bfloat16(wish: Any) -> Any:
    """Logits in the order of ``wish`` that stay distinct in bfloat16, which has 8 bits: equal ones would be a tie."""
    experts = wish.shape[1]
    grid = np.unique(np.linspace(-4.0, 4.0, 4 * experts).astype(np.float32).view(np.uint32) >> 16)
    values = np.sort((grid.astype(np.uint32) << 16).view(np.float32))
    picked = values[np.linspace(0, len(values) - 1, experts).round().astype(int)]
    return picked[wish.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")]
