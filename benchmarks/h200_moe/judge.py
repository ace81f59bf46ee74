"""The verdict on one output: flashinfer-bench's tolerance rule and the relative Frobenius error."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from reference import Answer

RTOL = 0.2
ATOL = 0.1
REQUIRED_RATIO = 0.85
MAX_FROBENIUS = 0.03
CHUNK = 1024


@dataclass(frozen=True)
class Verdict:
    """``frobenius`` is relative to the reference with the same FP8 requantisation, ``frobenius_exact`` to the float32
    one."""

    passed: bool
    matched_ratio: float
    frobenius: float
    frobenius_exact: float
    message: str = ""


def judge(out: torch.Tensor, answer: Answer) -> Verdict:
    """Compare [T, H] ``out`` with both references, in pieces of rows to bound memory."""
    if out.shape != answer.exact.shape or out.dtype != torch.bfloat16:
        return Verdict(False, 0.0, float("inf"), float("inf"), f"output is {out.dtype} {list(out.shape)}")
    if not out.numel():
        return Verdict(True, 1.0, 0.0, 0.0)
    if not bool(torch.isfinite(out).all()):
        bad = int((~torch.isfinite(out)).any(dim=1).sum())
        return Verdict(False, 0.0, float("inf"), float("inf"), f"{bad} rows are not finite")
    sums = torch.zeros(5, dtype=torch.float64, device=out.device)
    for start in range(0, len(out), CHUNK):
        got = out[start : start + CHUNK].float()
        exact = answer.exact[start : start + CHUNK]
        rounded = answer.requantised[start : start + CHUNK]
        error = (got - exact).abs()
        failed = (error > ATOL) & (error > RTOL * exact.abs())
        parts = (failed, (got - rounded) ** 2, rounded**2, error**2, exact**2)
        sums += torch.stack([p.sum(dtype=torch.float64) for p in parts])
    failed, d_rounded, n_rounded, d_exact, n_exact = sums.tolist()
    ratio = 1.0 - failed / out.numel()
    frobenius = (d_rounded / n_rounded) ** 0.5 if n_rounded else (0.0 if d_rounded == 0 else float("inf"))
    frobenius_exact = (d_exact / n_exact) ** 0.5 if n_exact else (0.0 if d_exact == 0 else float("inf"))
    passed = ratio >= REQUIRED_RATIO and frobenius < MAX_FROBENIUS
    message = "" if passed else f"matched ratio {ratio:.4f}, Frobenius error {frobenius:.4f}"
    return Verdict(passed, ratio, frobenius, frobenius_exact, message)
