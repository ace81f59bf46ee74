"""DeepGEMM's contiguous grouped FP8 GEMM between Triton kernels for routing, gather, SwiGLU and the weighted sum; SM90.

Rows are sorted into blocks of the alignment that DeepGEMM asks for. The number of rows in use is read back to the
host, as users of the contiguous layout do. Inside a CUDA graph it cannot be: there the GEMMs get the largest possible
number, and DeepGEMM still moves the data of blocks whose expert index is -1, so such a figure says little.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import torch

from .sizes import SIZES


class Skipped(RuntimeError):  # noqa: N818 - tuner knows it by this name
    """It cannot run on this machine."""


def unavailable() -> str | None:
    """Why this machine cannot run it, None if it can."""
    for package, wheel in (("triton", "triton"), ("deep_gemm", "sgl-deep-gemm==0.1.4")):
        if importlib.util.find_spec(package) is None:
            return f"the package {package} is not installed (wheel {wheel})"
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    major, minor = torch.cuda.get_device_capability()
    if major != 9:
        return f"float32 block scales need SM90, this device is SM{major}{minor}"
    return None


def run(*args) -> None:
    """Inputs in the definition's order, then the output [T, H] bfloat16.

    Raises:
        Skipped: It cannot run here; the message says why.
    """
    why = unavailable()
    if why is not None:
        raise Skipped(why)
    import deep_gemm

    from .elementwise import swiglu_quantise, weighted_sum
    from .gather import gather_rows
    from .routing import sorted_rows

    bias, offset, scaling = None, 0, 1.0
    if SIZES["routing"] == "deepseek":
        logits, bias, x, x_scale, w13, s13, w2, s2, offset, scaling, out = args
    else:
        logits, x, x_scale, w13, s13, w2, s2, out = args
    if not x.shape[0]:
        return
    block_m = deep_gemm.get_mk_alignment_for_contiguous_layout()
    rows = sorted_rows(SIZES, logits, bias, int(offset), float(scaling), block_m)
    if not torch.cuda.is_current_stream_capturing():
        rows = replace(rows, capacity=int(rows.total_rows))
        if not rows.capacity:
            out.zero_()
            return
    x_rows, x_rows_scale, row_expert = gather_rows(x, x_scale, rows)

    def gemm(a, a_scale, b, b_scale):
        c = torch.empty(rows.capacity, b.shape[1], dtype=torch.bfloat16, device=x.device)
        deep_gemm.m_grouped_fp8_gemm_nt_contiguous((a, a_scale.t()), (b, b_scale), c, row_expert)
        return c

    h, h_scale = swiglu_quantise(gemm(x_rows, x_rows_scale, w13, s13), rows)
    weighted_sum(gemm(h, h_scale, w2, s2), rows, out)
