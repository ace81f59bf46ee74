"""RMSNorm in torch. The config decides how; config.py is written by the tuner."""

import torch

from .config import select

EPSILON = 1e-6


def inverse_rms(x, method):
    """1 / sqrt(mean of squares + epsilon) of each row: float32 [rows, 1] of x float32 [rows, H]."""
    if method == "norm":
        mean_square = torch.linalg.vector_norm(x, dim=1, keepdim=True).square_() / x.shape[1]
    elif method == "einsum":
        mean_square = torch.einsum("rh,rh->r", x, x).unsqueeze(1) / x.shape[1]
    else:
        mean_square = x.square().mean(dim=1, keepdim=True)
    return torch.rsqrt(mean_square + EPSILON)


def normalise(rows, weight, config, out):
    """Write the normalised ``rows`` [rows, H] bfloat16 into ``out``."""
    x = rows.to(torch.float32)
    if config["method"] == "builtin":
        scaled = torch.nn.functional.rms_norm(x, (x.shape[1],), None, EPSILON)
    else:
        factor = inverse_rms(x, config["method"])
        scaled = x.mul_(factor) if config["in_place"] else x * factor
    if config["multiply_in"] == "bfloat16":
        torch.mul(scaled.to(torch.bfloat16), weight, out=out)
    elif config["in_place"]:
        out.copy_(scaled.mul_(weight.to(torch.float32)))
    else:
        out.copy_(scaled * weight.to(torch.float32))


def run(hidden_states, weight, output):
    """Fill ``output`` [batch_size, H] bfloat16 from ``hidden_states`` [batch_size, H] and ``weight`` [H]."""
    total = hidden_states.shape[0]
    config = select(total)
    rows = config["rows"] or max(total, 1)
    for start in range(0, total, rows):
        part = slice(start, start + rows)
        normalise(hidden_states[part], weight, config, output[part])
