"""Small inputs of the MoE op for emulation: routings that reach the corners of the tile lists, random values."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Routing:
    """One input.

    Args:
        name: Of the routing.
        tokens: T.
        kind: ``natural``, ``uneven``, ``one_expert``, ``empty`` (half of the local experts get nothing) or
            ``elsewhere`` (no token has a local expert).
        local_share: Raises the logits of the local experts, so that more tokens stay.
    """

    name: str
    tokens: int
    kind: str = "natural"
    local_share: float = 0.0


ROUTINGS = (
    Routing("one token", 1, local_share=3.0),
    Routing("uneven", 45, "uneven", 1.0),
    Routing("empty experts", 37, "empty", 1.0),
    Routing("all on one", 50, "one_expert"),
    Routing("more tiles than CTAs", 260, "natural", 1.5),
    Routing("odd ends of pairs", 167, "uneven", 2.0),
    Routing("nobody", 9, "elsewhere"),
)
"""What a variant is judged on without a GPU."""


def _fp8(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """FP8 E4M3 codes of sizes up to 8, subnormals and zeros among them."""
    size = rng.integers(0, 0x50, shape, dtype=np.uint8)
    return size | (rng.integers(0, 2, shape, dtype=np.uint8) << np.uint8(7))


def _scales(rng: np.random.Generator, power_of_two: bool, *shape: int) -> np.ndarray:
    """float32 of both signs, none near zero, no two alike: a scale of another block shows. Or one of seven powers."""
    if power_of_two:
        return np.exp2(rng.integers(-3, 4, shape)).astype(np.float32)
    size = np.exp2(rng.uniform(-1.0, 1.0, shape))
    return (size * rng.choice([-1.0, 1.0], shape)).astype(np.float32)


def inputs(sizes: Mapping[str, Any], routing: Routing, offset: int = 0, seed: int = 0) -> dict[str, np.ndarray]:
    """Name -> array of every input of the op, in its memory layout; weights depend on the seed alone."""
    rng = np.random.default_rng([seed, zlib.crc32(routing.name.encode())])
    logits, bias = _logits(sizes, routing, offset, rng)
    power_of_two = bool(sizes["power_of_two"])
    root = np.sqrt(sizes["hidden"])
    if power_of_two:
        root = np.exp2(np.round(np.log2(root)))
    out = {
        "logits": logits,
        "x": _fp8(rng, routing.tokens, sizes["hidden"]),
        "xs": (_scales(rng, power_of_two, sizes["hidden"] // 128, routing.tokens) / root).astype(np.float32),
        **weights(sizes, seed),
    }
    if bias is not None:
        out["bias"] = bias
    return out


def weights(sizes: Mapping[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Name -> array of the experts' weights and their scales."""
    rng = np.random.default_rng(seed)
    h, i, e = sizes["hidden"], sizes["intermediate"], sizes["local_experts"]
    p = bool(sizes["power_of_two"])
    return {
        "w13": _fp8(rng, e, 2 * i, h),
        "s13": _scales(rng, p, e, 2 * i // 128, h // 128),
        "w2": _fp8(rng, e, h, i),
        "s2": _scales(rng, p, e, h // 128, i // 128),
    }


def _logits(
    sizes: Mapping[str, Any], routing: Routing, offset: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None]:
    """Logits [T, E] and bias [E] that route as asked; a grid of distinct values, so that no choice is a near tie."""
    experts, local = sizes["experts"], sizes["local_experts"]
    wish = rng.normal(0.0, 1.0, (routing.tokens, experts))
    mine = slice(offset, offset + local)
    wish[:, mine] += routing.local_share
    if routing.kind == "uneven":
        wish += np.linspace(1.5, -1.5, experts)[rng.permutation(experts)]
    elif routing.kind == "empty":
        wish[:, offset + rng.permutation(local)[: local // 2]] -= 20.0
    elif routing.kind in ("one_expert", "elsewhere"):
        wish[:, mine] -= 20.0
        if routing.kind == "one_expert":
            wish[:, offset + int(rng.integers(local))] += 60.0
    rank = wish.argsort(axis=1).argsort(axis=1)
    if sizes["routing"] != "deepseek":
        values = np.unique(_upper_half(np.linspace(-4.0, 4.0, 4 * experts)).astype(np.uint32) << 16)
        values = np.sort(values.view(np.float32))
        picked = values[np.linspace(0, len(values) - 1, experts).round().astype(int)]
        return _upper_half(picked[rank]), None
    grid = np.linspace(-3.0, 3.0, experts)
    jitter = rng.uniform(-0.3, 0.3, wish.shape) * (grid[1] - grid[0])
    logits = (grid[rank] + jitter).astype(np.float32)
    if routing.kind in ("one_expert", "elsewhere"):
        # Groups that hold local experts must not win by their other members.
        logits[:, mine] = np.where(wish[:, mine] > 10.0, 9.0, -9.0 + jitter[:, mine])
        if routing.kind == "one_expert":
            logits = np.where(logits < 9.0, np.minimum(logits, 0.5), logits)
    return logits.astype(np.float32), _upper_half(rng.uniform(0.0, 0.002, experts))


def _upper_half(values: np.ndarray) -> np.ndarray:
    """bfloat16 as uint16, cut."""
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
