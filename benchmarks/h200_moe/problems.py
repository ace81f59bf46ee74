"""The FP8 block-scale MoE definitions, their public workloads as plain data, floors, and routing inputs.

Everything random here is synthetic: the public copy of the dataset has no recorded routing tensors. The logits of a
public workload follow the dataset's stand-in recipe (per-expert popularity, a low-rank part that tokens share, and
noise) with its seed, so that rows and active experts are the same wherever that recipe is used.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch

BLOCK = 128
COPY_BYTES_PER_US = 4.3e6
"""Bytes per microsecond of a large device-to-device copy on an H200 (measured 2026-11-23)."""
FP8_FLOP_PER_US = 1.5e9


@dataclass(frozen=True)
class Problem:
    """Sizes of one definition. ``renorm`` problems have no bias, no offset and no scaling factor."""

    name: str
    experts: int
    local: int
    top_k: int
    hidden: int
    intermediate: int
    n_group: int = 1
    topk_group: int = 1
    renorm: bool = False

    @property
    def expert_bytes(self) -> int:
        """FP8 weight bytes of one expert."""
        return 3 * self.hidden * self.intermediate

    @property
    def row_flop(self) -> int:
        """Floating-point operations of one row through both GEMMs."""
        return 2 * self.expert_bytes

    def floor_us(self, active_experts: int, rows: int, copy_tb_s: float = COPY_BYTES_PER_US / 1e6) -> float:
        """Lower bound of the two GEMMs: every active expert read once, or all multiplications at the FP8 rate."""
        return max(active_experts * self.expert_bytes / copy_tb_s / 1e6, rows * self.row_flop / FP8_FLOP_PER_US)


_PREFIX = "moe_fp8_block_scale_"
PROBLEMS = {
    p.name: p
    for p in (
        Problem(f"{_PREFIX}ds_routing_topk8_ng8_kg4_e32_h7168_i2048", 256, 32, 8, 7168, 2048, 8, 4),
        Problem(f"{_PREFIX}ds_routing_topk8_ng1_kg1_e384_h7168_i2048", 384, 384, 8, 7168, 2048),
        Problem(f"{_PREFIX}ds_routing_topk8_ng1_kg1_e48_h7168_i2048", 384, 48, 8, 7168, 2048),
        Problem(f"{_PREFIX}renorm_topk10_e128_h2048_i512", 128, 128, 10, 2048, 512, renorm=True),
        Problem(f"{_PREFIX}renorm_topk8_e128_h2048_i768", 128, 128, 8, 2048, 768, renorm=True),
        Problem(f"{_PREFIX}renorm_topk8_e128_h4096_i1536", 128, 128, 8, 4096, 1536, renorm=True),
    )
}
MAIN = PROBLEMS[f"{_PREFIX}ds_routing_topk8_ng8_kg4_e32_h7168_i2048"]

PUBLIC_WORKLOADS = (
    # uuid, seq_len, local_expert_offset; routed_scaling_factor is 2.5 in all of them
    ("e05c6c03-5603-4a1c-b34c-dcce0ecaeea4", 1, 32),
    ("b8f4f012-a32e-4356-b4e1-7665b3d598af", 7, 192),
    ("8cba5890-4288-448a-93b8-42c14c6b9420", 14, 0),
    ("2e69caee-ae5c-473b-aa99-5dc6659829d4", 15, 32),
    ("a7c2bcfd-a2f4-479e-8d32-200115df89cf", 16, 224),
    ("6230e838-67ca-41dd-a9d6-6f36b7676c6b", 32, 32),
    ("f7d6ac7c-24ec-47e4-aefc-4863a5e3e1d9", 52, 160),
    ("fc378037-e8fa-4305-b00f-4af47933fd53", 53, 32),
    ("76010cb4-f73c-4145-8365-8642a2ce99de", 54, 128),
    ("81955b1e-086f-49c1-9f40-a18a5aaf509d", 55, 128),
    ("4822167c-dae5-4bb1-bb53-e4adb256245b", 56, 64),
    ("74d7ff04-0365-4cf8-a824-ce61b7131dea", 57, 96),
    ("e626d3e6-6c29-4fd8-bb7c-5b09eec61702", 58, 64),
    ("eedc63b2-c03b-4cf2-8d16-1f46566e3af7", 59, 160),
    ("5eadab1e-a0e3-4966-b0fd-1115cd77497c", 62, 96),
    ("8f1ff9f1-6747-41d1-a1d8-2868cdacf893", 80, 96),
    ("1a4c6ba1-3cd2-4d7d-b716-84f2d52b69fc", 901, 96),
    ("58a34f27-7995-4155-8b46-f60a7225e20e", 11948, 128),
    ("5e8dc11c-f2a9-42d5-8dce-9419cbf34d5d", 14107, 32),
)
SCALING = 2.5
MODEL_SEED = 20260203

SHAPES = ("natural", "skewed", "one_expert", "not_local", "flat", "three_experts", "zipf")
"""Kinds of routing that random cases draw from; see :func:`routing_logits`."""
PROFILES = {
    **{"uniform": "uniform", "zipf:0.8": "zipf", "hot:3": "three_experts", "hot:1": "one_expert"},
    "recorded-like": "natural",
}
"""Kind of routing of each profile that docs/results/routing.md compares."""
ZIPF_EXPONENT = 0.8


@dataclass(frozen=True)
class Case:
    """One input of the pipeline.

    Args:
        seq_len: Tokens.
        offset: First local expert; may be negative or reach past the last expert.
        shape: One of :data:`SHAPES`.
        seed: Of everything random in it.
        magnitude: Factor on the hidden states' scales.
        uuid: The public workload it stands for, "" for a random one.
    """

    seq_len: int
    offset: int
    shape: str = "natural"
    seed: int = 0
    magnitude: float = 1.0
    uuid: str = ""


def public_cases() -> list[Case]:
    """The 19 public workloads of :data:`MAIN`, by rising size."""
    return [Case(tokens, offset, uuid=uuid) for uuid, tokens, offset in PUBLIC_WORKLOADS]


def profile_case(profile: str, tokens: int, offset: int, seed: int) -> Case:
    """The case of a profile and size; ``recorded-like`` takes the public workload where there is one of the size."""
    public = {case.seq_len: case for case in public_cases()}
    if profile == "recorded-like" and tokens in public:
        return public[tokens]
    return Case(tokens, offset, PROFILES[profile], seed=seed)


def random_cases(problem: Problem, count: int, seed: int, largest: int = 4096) -> list[Case]:
    """Cases of every size class from 0 to ``largest`` tokens, all shapes, offsets inside, at the end and past it."""
    rng = np.random.default_rng(seed)
    edges = [0, 1, 2, 127, 128, 129, min(1025, largest), largest]
    cases = []
    for i in range(count):
        tokens = edges[i] if i < len(edges) else int(np.exp(rng.uniform(0, np.log(largest + 1))))
        shape = SHAPES[int(rng.integers(len(SHAPES)))]
        if problem.renorm:
            offset = 0
        else:
            places = (0, problem.experts - problem.local, problem.experts - problem.local // 2, -problem.local // 2)
            offset = (
                int(rng.choice(places))
                if rng.random() < 0.3
                else int(rng.integers(problem.experts - problem.local + 1))
            )
        cases.append(Case(min(tokens, largest), offset, shape, seed * 100003 + i, float(rng.choice((0.01, 1.0, 30.0)))))
    return cases


def _natural(experts: int, tokens: int, seed: int, key: int, skew: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits and bias: popularity and topics belong to the model (``seed``), the mix and the noise to the batch
    (``key``)."""
    model = np.random.default_rng(seed)
    popularity = model.normal(0.0, skew, experts)
    topics = model.normal(0.0, 1.0, (16, experts))
    bias = model.normal(0.0, 0.02, experts)
    batch = np.random.default_rng([seed, key])
    shared = batch.normal(0.0, 0.25, (tokens, 16)) @ topics
    return popularity + shared + batch.normal(0.0, 0.8, (tokens, experts)), bias


def routing_logits(problem: Problem, case: Case, device: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Logits [T, E] (float32, bfloat16 for renorm) and bias [E] bfloat16 (None for renorm).

    ``natural`` and ``skewed`` follow the recipe above with popularity 0.5 and 2.5; ``one_expert`` and ``three_experts``
    send every token to the same local expert (or all three) and to no other local one, where the routing allows it;
    ``not_local`` keeps every token away from all local experts; ``flat`` has nearly equal logits, so that the bias
    decides and near-ties occur; ``uniform`` logits are independent; ``zipf`` draws experts with probabilities that fall
    with their rank, the first of all experts being local.
    """
    key = zlib.crc32(case.uuid.encode()) if case.uuid else case.seed
    values, bias = _natural(problem.experts, case.seq_len, MODEL_SEED, key, 2.5 if case.shape == "skewed" else 0.5)
    low = max(case.offset, 0)
    high = max(min(case.offset + problem.local, problem.experts), low)
    if case.shape in ("one_expert", "three_experts", "not_local"):
        values = np.minimum(values, 3.0) - 3.0  # no group without the chosen expert beats the one that has it
        values[:, low:high] = -20.0 - np.abs(values[:, low:high])
        if case.shape != "not_local" and high > low:
            hot = [low + (case.seed + 11 * i) % (high - low) for i in range(3 if case.shape == "three_experts" else 1)]
            values[:, hot] = 12.0 + 0.1 * np.arange(len(hot))
    elif case.shape in ("uniform", "zipf"):
        rng = np.random.default_rng([MODEL_SEED, key])
        values, bias = rng.gumbel(0.0, 1.0, values.shape), np.zeros_like(bias)
        if case.shape == "zipf":
            order = rng.permutation(problem.experts)
            order = np.roll(order, -int(np.argmax((order >= low) & (order < max(high, low + 1)))))
            values[:, order] -= ZIPF_EXPONENT * np.log(np.arange(1, problem.experts + 1))
    elif case.shape == "flat":
        values = 1.0 + values * 1e-4
    logits = torch.tensor(values, dtype=torch.float32)
    if problem.renorm:
        logits = distinct_bf16(logits)
    placed = torch.empty(logits.shape, dtype=logits.dtype, device=device)  # row-major strides even without tokens
    placed.copy_(logits)
    if problem.renorm:
        return placed, None
    return placed, torch.tensor(bias, dtype=torch.bfloat16, device=device)


def distinct_bf16(logits: torch.Tensor) -> torch.Tensor:
    """bfloat16 logits [T, E] in the order of ``logits``, without equal values in a row.

    bfloat16 keeps 8 bits, so rounded logits often tie and any choice among equals would be right; a check needs one
    answer.
    The values are a fixed grid of E distinct numbers, dealt out by rank.
    """
    experts = logits.shape[1]
    grid = torch.linspace(-4.0, 4.0, 4 * experts).to(torch.bfloat16).unique()
    grid = grid[torch.linspace(0, grid.numel() - 1, experts).round().long()]
    rank = logits.argsort(dim=1).argsort(dim=1)
    return grid[rank]
