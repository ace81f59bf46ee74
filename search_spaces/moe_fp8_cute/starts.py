"""Configs for Hopper that a sweep should try early: the fastest that were measured on H100s and H200s at some size.

Source: docs/results/h100-moe.md and gpu-sweep.md. They are only starts: another card, definition or routing
has other winners.
"""

from __future__ import annotations

from typing import Any

_SWAPPED: dict[str, Any] = {
    "combine": "atomic_f32",
    "swap_1": True,
    "tile_t_1": 8,
    "tile_w_1": 128,
    "swap_2": True,
    "tile_t_2": 8,
    "tile_w_2": 128,
}
_SHARED_WEIGHTS: dict[str, Any] = {
    "gather": "kernel",
    "combine": "atomic_bf16",
    **{f"{name}_{i}": value for i in (1, 2) for name, value in (("groups", 2), ("tile_t", 128), ("stages", 4))},
    "multicast_1": "weights",
    "multicast_2": "weights",
}
_NARROW: dict[str, Any] = {
    "combine": "atomic_bf16",
    **{f"{name}_{i}": value for i in (1, 2) for name, value in (("tile_w", 128), ("stages", 4))},
}

HOPPER: tuple[tuple[int, int | None, dict[str, Any]], ...] = (
    (0, 256, {**_SWAPPED, "groups_1": 2, "groups_2": 2, "stages_1": 10, "stages_2": 10}),
    (
        0,
        64,
        {
            **_SWAPPED,
            "groups_2": 2,
            "stages_1": 8,
            "stages_2": 6,
            "ctas_per_sm_2": 2,
            "split_k_2": 4,
            "order": "weights",
        },
    ),
    (257, 4096, _NARROW),
    (1025, None, _SHARED_WEIGHTS),
    (1025, None, {**_SHARED_WEIGHTS, "order": "mixed"}),
    (1025, None, {**_SHARED_WEIGHTS, "combine": "finalize"}),
)
"""(smallest size, largest size or None, what differs from the default)."""
