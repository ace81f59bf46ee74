"""RMS norm in Triton: a block of rows per program. Its choices come from config.py, as constants of the kernel."""

import triton
import triton.language as tl

from .config import select


@triton.jit
def normalise(x, weight, out, rows, eps, HIDDEN: tl.constexpr, ROWS: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, HIDDEN)
    at = row[:, None] * HIDDEN + column[None, :]
    inside = row[:, None] < rows
    values = tl.load(x + at, inside, 0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, 1) / HIDDEN + eps)
    weights = tl.load(weight + column).to(tl.float32)
    tl.store(out + at, (values * scale[:, None] * weights[None, :]).to(out.dtype.element_ty), inside)


def run(hidden_states, weight, output):
    rows, hidden = hidden_states.shape
    config = select(rows)
    grid = (triton.cdiv(rows, config["rows"]),)
    normalise[grid](
        hidden_states, weight, output, rows, 1e-6, HIDDEN=hidden, ROWS=config["rows"], num_warps=config["num_warps"]
    )
