"""SwiGLU MLP: two kernels, each with a group of choices, that share the height of a block."""

import torch
import triton

from .config import select
from .kernels import down, gate_up


def own(config, group):
    """The choices of one kernel, by the names that it knows: what ``space.yaml`` has in a group."""
    return {name.removeprefix(f"{group}."): value for name, value in config.items() if name.startswith(f"{group}.")}


def run(hidden_states, gate_up_weight, down_weight, output):
    """Fill ``output`` [tokens, H] from ``hidden_states`` [tokens, H], weights [2 I, H] (gate, then up) and [H, I]."""
    tokens, hidden = hidden_states.shape
    inner = down_weight.shape[1]
    config = select(tokens)
    rows = config["BLOCK_M"]
    first, second = own(config, "gate_up"), own(config, "down")
    between = torch.empty((tokens, inner), dtype=hidden_states.dtype, device=hidden_states.device)
    gate_up[(triton.cdiv(tokens, rows), inner // first["BLOCK_N"])](
        hidden_states, gate_up_weight, between, tokens, hidden, inner, BLOCK_M=rows, **first
    )
    down[(triton.cdiv(tokens, rows), hidden // second["BLOCK_N"])](
        between, down_weight, output, tokens, inner, hidden, BLOCK_M=rows, **second
    )
