"""FP8 block-scale MoE as a usual Triton pipeline: route, sort into token blocks, GEMM, SwiGLU and requant, GEMM, sum.

Source: the order of steps is the common one of serving frameworks (fused_moe of vLLM and SGLang); the kernels are our
own.
"""

from __future__ import annotations

import importlib.util

import torch

from .sizes import SIZES


class Skipped(RuntimeError):  # noqa: N818 - tuner knows it by this name
    """It cannot run on this machine."""


def unavailable() -> str | None:
    """Why this machine cannot run it, None if it can."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    if torch.cuda.get_device_capability() < (8, 9):
        return "the device has no FP8 matrix instructions"
    return None


def run(*args) -> None:
    """Inputs in the definition's order, then the output [T, H] bfloat16.

    Raises:
        Skipped: It cannot run here; the message says why.
    """
    why = unavailable()
    if why is not None:
        raise Skipped(why)
    pipeline(*args)


def pipeline(*args) -> None:
    """The launches."""
    from .elementwise import swiglu_quantise, weighted_sum
    from .gemm import grouped_gemm, tile_for
    from .routing import sorted_rows

    bias, offset, scaling = None, 0, 1.0
    if SIZES["routing"] == "deepseek":
        logits, bias, x, x_scale, w13, s13, w2, s2, offset, scaling, out = args
    else:
        logits, x, x_scale, w13, s13, w2, s2, out = args
    if not x.shape[0]:
        return
    tile = tile_for(x.shape[0] * SIZES["top_k"], SIZES["experts"])
    rows = sorted_rows(SIZES, logits, bias, int(offset), float(scaling), tile.block_m)
    up_gate = grouped_gemm(x, x_scale, w13, s13, rows, tile, gather=True)
    h, h_scale = swiglu_quantise(up_gate, rows)
    y = grouped_gemm(h, h_scale, w2, s2, rows, tile, gather=False)
    weighted_sum(y, rows, out)
