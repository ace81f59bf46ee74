"""flashinfer's TensorRT-LLM FP8 block-scale MoE, where it runs: Blackwell datacentre parts (SM100 family)."""

from __future__ import annotations

import importlib.util

import torch

from .sizes import SIZES

RENORMALIZE, DEEPSEEK_V3 = 1, 2
"""flashinfer.fused_moe.RoutingMethodType."""


class Skipped(RuntimeError):  # noqa: N818 - tuner knows it by this name
    """It cannot run on this machine."""


def unavailable() -> str | None:
    """Why this machine cannot run it, None if it can."""
    if importlib.util.find_spec("flashinfer") is None:
        return "the package flashinfer-python is not installed"
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    major, minor = torch.cuda.get_device_capability()
    if major != 10:
        return f"trtllm_fp8_block_scale_moe has kernels for SM100 only, this device is SM{major}{minor}"
    return None


def run(*args) -> None:
    """Inputs in the definition's order, then the output [T, H] bfloat16.

    Raises:
        Skipped: It cannot run here; the message says why.
    """
    why = unavailable()
    if why is not None:
        raise Skipped(why)
    from flashinfer.fused_moe import trtllm_fp8_block_scale_moe

    bias, offset, scaling = None, 0, None
    deepseek = SIZES["routing"] == "deepseek"
    if deepseek:
        logits, bias, x, x_scale, w13, s13, w2, s2, offset, scaling, out = args
    else:
        logits, x, x_scale, w13, s13, w2, s2, out = args
    if not x.shape[0]:
        return
    out.copy_(
        trtllm_fp8_block_scale_moe(
            routing_logits=logits,
            routing_bias=bias,
            hidden_states=x,
            hidden_states_scale=x_scale,
            gemm1_weights=w13,
            gemm1_weights_scale=s13,
            gemm2_weights=w2,
            gemm2_weights_scale=s2,
            num_experts=SIZES["experts"],
            top_k=SIZES["top_k"],
            n_group=SIZES["groups"] if deepseek else None,
            topk_group=SIZES["topk_groups"] if deepseek else None,
            intermediate_size=SIZES["intermediate"],
            local_expert_offset=int(offset),
            local_num_experts=SIZES["local_experts"],
            routed_scaling_factor=None if scaling is None else float(scaling),
            routing_method_type=DEEPSEEK_V3 if deepseek else RENORMALIZE,
        )
    )
