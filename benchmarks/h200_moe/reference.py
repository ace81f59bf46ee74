"""Float32 reference of the MoE op for any of the definitions, on any torch device, one expert at a time."""

from __future__ import annotations

from dataclasses import dataclass

import product  # noqa: F401
import torch
from problems import BLOCK, SCALING, Case, Problem, routing_logits

from search_spaces.moe_fp8.model import dequantise, route
from search_spaces.moe_fp8.reading import Reading

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0


@dataclass(frozen=True)
class Weights:
    """Expert weights of a problem, FP8 with a float32 scale (of either sign) per 128 x 128 block.

    Shapes:
        w13: [E_local, 2I, H], s13: [E_local, 2I/128, H/128]. w2: [E_local, H, I], s2: [E_local, H/128, I/128].
    """

    w13: torch.Tensor
    s13: torch.Tensor
    w2: torch.Tensor
    s2: torch.Tensor


@dataclass(frozen=True)
class Inputs:
    """Everything one call takes. ``bias`` is None for renorm problems."""

    logits: torch.Tensor
    bias: torch.Tensor | None
    hidden: torch.Tensor
    hidden_scale: torch.Tensor
    weights: Weights
    offset: int
    scaling: float

    def arguments(self, problem: Problem) -> list:
        """In the definition's order."""
        w = self.weights
        tail = [self.hidden, self.hidden_scale, w.w13, w.s13, w.w2, w.s2]
        if problem.renorm:
            return [self.logits, *tail]
        return [self.logits, self.bias, *tail, self.offset, self.scaling]


def _fp8(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Normal values cut at 2, as flashinfer-bench's random FP8 inputs; made in pieces to bound memory."""
    out = torch.empty(shape, dtype=FP8, device=generator.device)
    flat = out.view(-1)
    for start in range(0, flat.numel(), 1 << 28):
        piece = flat[start : start + (1 << 28)]
        piece.copy_(torch.randn(piece.shape, generator=generator, device=generator.device).clamp_(-2, 2).to(FP8))
    return out


def make_weights(problem: Problem, seed: int, device: str) -> Weights:
    """Random weights; scales are normal, so half of them are negative."""
    g = torch.Generator(device).manual_seed(seed)
    e, h, i = problem.local, problem.hidden, problem.intermediate
    return Weights(
        _fp8((e, 2 * i, h), g),
        torch.randn(e, 2 * i // BLOCK, h // BLOCK, generator=g, device=device),
        _fp8((e, h, i), g),
        torch.randn(e, h // BLOCK, i // BLOCK, generator=g, device=device),
    )


def make_inputs(problem: Problem, case: Case, weights: Weights, device: str) -> Inputs:
    """Inputs of one case; the hidden states' scales have both signs and a spread of a hundred."""
    g = torch.Generator(device).manual_seed(case.seed + 17)
    logits, bias = routing_logits(problem, case, device)
    blocks = problem.hidden // BLOCK
    scale = torch.randn(blocks, case.seq_len, generator=g, device=device) * case.magnitude
    scale *= 10.0 ** torch.randint(-1, 2, (1, case.seq_len), generator=g, device=device)
    return Inputs(logits, bias, _fp8((case.seq_len, problem.hidden), g), scale, weights, case.offset, SCALING)


def reading(problem: Problem) -> Reading:
    """The sizes as the product's families read them from a definition."""
    sizes = problem.hidden, problem.intermediate, problem.experts, problem.local, problem.top_k
    return Reading(*sizes, "renorm" if problem.renorm else "deepseek", problem.n_group, problem.topk_group)


def requantise(x: torch.Tensor) -> torch.Tensor:
    """float32 [R, C] after a round trip through FP8 with a scale per row and 128 columns."""
    blocks = x.view(x.shape[0], -1, BLOCK)
    scale = blocks.abs().amax(dim=2, keepdim=True).clamp(min=1e-30) / FP8_MAX
    return ((blocks / scale).to(FP8).float() * scale).view_as(x)


@dataclass(frozen=True)
class Answer:
    """Reference outputs [T, H] float32: exact, and with the intermediate requantised to FP8; and what was active."""

    exact: torch.Tensor
    requantised: torch.Tensor
    rows: int
    active_experts: int


@torch.no_grad()
def answer(problem: Problem, inputs: Inputs) -> Answer:
    """Both references; matrix products in full float32 (the caller leaves TF32 off)."""
    tokens = inputs.hidden.shape[0]
    chosen, weight = route(reading(problem), inputs.logits, inputs.bias, inputs.scaling)
    exact = torch.zeros(tokens, problem.hidden, device=inputs.hidden.device)
    rounded = torch.zeros_like(exact)
    rows = active = 0
    w = inputs.weights
    for local in range(problem.local):
        token, slot = torch.nonzero(chosen == inputs.offset + local, as_tuple=True)
        if not len(token):
            continue
        rows, active = rows + len(token), active + 1
        x = inputs.hidden[token].float().view(len(token), -1, BLOCK)
        x = (x * inputs.hidden_scale.t()[token][:, :, None]).view(len(token), problem.hidden)
        up, gate = (x @ dequantise(w.w13[local], w.s13[local]).t()).chunk(2, dim=1)
        h = torch.nn.functional.silu(gate) * up
        w2 = dequantise(w.w2[local], w.s2[local]).t()
        share = weight[token, slot][:, None]
        exact.index_add_(0, token, (h @ w2) * share)
        rounded.index_add_(0, token, (requantise(h) @ w2) * share)
    return Answer(exact, rounded, rows, active)
