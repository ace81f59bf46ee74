"""Causal attention. The launcher picks the config for the length, and leaves the rest to its helpers."""

from .config import select
from .kernel import attend
from .launch import as_listed, exponent_scale, grid


def run(q, k, v, o):
    """Fill ``o`` from ``q``, ``k`` and ``v``, all [seq_len, heads, head_dim] bfloat16."""
    n, heads, d = q.shape
    config = select(n)
    attend[grid(n, heads, config)](
        q, k, v, o, n, exponent_scale(d), HEADS=heads, D=d, LONGEST_FIRST=config["order"] == "longest_first",
        HEADS_FIRST=config["heads_first"], **as_listed(config),
    )  # fmt: skip
