"""The product's verdict on one output, by flashinfer-bench's low-bit tolerance, and a stricter one on the whole."""

from __future__ import annotations

from dataclasses import dataclass

import product  # noqa: F401
import torch
from reference import Answer

from workers.judge.outputs.check import compare
from workers.judge.outputs.rules import Kind, Rule
from workers.judge.outputs.truth import Truth
from workers.records import Status, Tolerance

RULE = Rule("output", Kind.CLOSE, Tolerance(rtol=0.2, atol=0.1, required_matched_ratio=0.85), "as the public workloads")
MAX_FROBENIUS = 0.03


@dataclass(frozen=True)
class Verdict:
    """``frobenius`` is the relative error against the reference with the same FP8 requantisation, ``frobenius_exact``
    that against the float32 one."""

    passed: bool
    matched_ratio: float
    frobenius: float
    frobenius_exact: float
    message: str = ""


def judge(out: torch.Tensor, answer: Answer) -> Verdict:
    """Compare [T, H] ``out`` with both references."""
    exact = answer.exact.to(torch.bfloat16)
    atol = torch.full((len(exact), 1), RULE.tolerance.atol, device=exact.device)
    found = compare([out], [Truth(RULE, exact, atol=atol)])
    if found.status in (Status.INCORRECT_SHAPE, Status.INCORRECT_DTYPE):
        return Verdict(False, 0.0, float("inf"), float("inf"), found.message)
    rounded, full = (relative_error(out, wanted) for wanted in (answer.requantised, answer.exact))
    passed = found.status is Status.PASSED and rounded < MAX_FROBENIUS
    message = "" if passed else found.message or f"Frobenius error {rounded:.4f}"
    return Verdict(passed, found.matched_ratio or 0.0, rounded, full, message)


def relative_error(out: torch.Tensor, wanted: torch.Tensor) -> float:
    """Frobenius norm of the difference over that of what was wanted."""
    if not out.numel():
        return 0.0
    size, error = float(wanted.norm()), float((out - wanted).norm())
    return error / size if size else (0.0 if error == 0 else float("inf"))
