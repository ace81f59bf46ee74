"""Ten MoE definitions with other numbers than the packaged one; their references write constants in many ways."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.packaged_dataset.make import MoeSizes, moe_definition, reference
from search_spaces.moe_fp8.reading import POWER_OF_TWO

_HEAD = "TOP_K, N_GROUP, TOPK_GROUP = 4, 4, 2\nNUM_EXPERTS, NUM_LOCAL_EXPERTS = 32, 8\n"
_SIZES = "HIDDEN, INTERMEDIATE, BLOCK = 512, 256, 128\n"
_SIGNATURE, _CALL = (
    "def route(logits, bias, scaling_factor",
    "route(routing_logits, routing_bias, routed_scaling_factor",
)


def _deepseek(s: MoeSizes, head: str) -> str:
    """The packaged reference with other sizes and ``head`` in place of its routing constants."""
    text = reference("moe")
    assert _HEAD in text
    assert _SIZES in text
    text = text.replace(_HEAD, f"{head}\nNUM_EXPERTS, NUM_LOCAL_EXPERTS = {s.experts}, {s.local}\n")
    return text.replace(_SIZES, f"HIDDEN, INTERMEDIATE, BLOCK = {s.hidden}, {s.intermediate}, 128\n")


def _renamed(text: str, top_k: str, groups: str, kept: str) -> str:
    for old, new in (("TOPK_GROUP", kept), ("N_GROUP", groups), ("TOP_K", top_k)):
        text = text.replace(old, new)
    return text


def as_tuple(s: MoeSizes) -> str:
    return _deepseek(s, f"TOP_K, (N_GROUP, TOPK_GROUP) = {s.top_k}, ({s.groups}, {s.topk_groups})")


def annotated(s: MoeSizes) -> str:
    return _deepseek(s, f"TOP_K: int = {s.top_k}\nN_GROUP: int = {s.groups}\nTOPK_GROUP: int = {s.topk_groups}")


def computed(s: MoeSizes) -> str:
    head = f"HALF = {s.groups // 2}\nN_GROUP = 2 * HALF + {s.groups % 2}\n"
    head += f"TOPK_GROUP = N_GROUP - {s.groups - s.topk_groups}"
    return _deepseek(s, f"{head}\nTOP_K = int({s.top_k * 2} / 2)")


def by_keyword(s: MoeSizes) -> str:
    text = _renamed(_deepseek(s, ""), "top_k", "n_group", "topk_group")
    given = f"top_k={s.top_k}, n_group={s.groups}, topk_group={s.topk_groups}"
    return text.replace(_SIGNATURE, f"{_SIGNATURE}, *, top_k, n_group=1, topk_group=1").replace(
        _CALL, f"{_CALL}, {given}"
    )


def by_position(s: MoeSizes) -> str:
    text = _renamed(_deepseek(s, ""), "num_experts_per_tok", "num_expert_group", "topk_group")
    names, given = "num_experts_per_tok, num_expert_group, topk_group", f"{s.top_k}, {s.groups}, {s.topk_groups}"
    return text.replace(_SIGNATURE, f"{_SIGNATURE}, {names}").replace(_CALL, f"{_CALL}, {given}")


def in_a_dictionary(s: MoeSizes) -> str:
    text = _renamed(_deepseek(s, "# head"), 'CONFIG["top_k"]', 'CONFIG["n_group"]', 'CONFIG["topk_group"]')
    head = f'CONFIG = {{"top_k": {s.top_k}, "n_group": {s.groups}, "topk_group": {s.topk_groups}}}'
    return text.replace("# head", head)


def in_a_class(s: MoeSizes) -> str:
    text = _renamed(_deepseek(s, "# head"), "Geometry.TOP_K", "Geometry.N_GROUP", "Geometry.TOPK_GROUP")
    head = f"class Geometry:\n    TOP_K = {s.top_k}\n    N_GROUP: int = {s.groups}\n    TOPK_GROUP = {s.topk_groups}\n"
    return text.replace("# head", head)


def without_groups(s: MoeSizes) -> str:
    text = _deepseek(s, f"TOP_K = {s.top_k}")
    start, end = text.index("    grouped = "), text.index("    chosen = candidates")
    return text[:start] + "    candidates = biased\n" + text[end:]


_RENORM_RUN = """
@torch.no_grad()
def run(
    routing_logits, hidden_states, hidden_states_scale, gemm1_weights, gemm1_weights_scale, gemm2_weights,
    gemm2_weights_scale,
):
    T, num_experts = routing_logits.shape
    E, two_inter, H = gemm1_weights.shape
    best, chosen = torch.topk(routing_logits.to(torch.float32), {top_k}, dim=1)
    weights = torch.softmax({scores}, dim=1){after}
    x = (hidden_states.to(torch.float32).view(T, H // 128, 128) * hidden_states_scale.t().unsqueeze(2)).view(T, H)
    output = torch.zeros(T, H, dtype=torch.float32, device=x.device)
    for expert in range(E):
        token, slot = torch.nonzero(chosen == expert, as_tuple=True)
        first = x[token] @ dequantize(gemm1_weights[expert], gemm1_weights_scale[expert]).t()
        value, gate = first[:, : two_inter // 2], first[:, two_inter // 2 :]
        hidden = gate * torch.sigmoid(gate) * value
        second = hidden @ dequantize(gemm2_weights[expert], gemm2_weights_scale[expert]).t()
        output.index_add_(0, token, second * weights[token, slot].unsqueeze(1))
    return output.to(torch.bfloat16)
"""


def renorm(s: MoeSizes, scores: str = "best", after: str = "") -> str:
    text = reference("moe")
    dequantize = text[text.index("def dequantize") : text.index("def route")]
    body = _RENORM_RUN.format(top_k="top_k", scores=scores, after=after)
    return f"import torch\n\nBLOCK = 128\ntop_k = {s.top_k}\n\n\n{dequantize}{body}"


def not_renormalised(s: MoeSizes) -> str:
    """A softmax over all experts whose chosen weights are taken as they are: another op with the same inputs."""
    return renorm(s, "routing_logits.to(torch.float32)", ".gather(1, chosen)")


TEN: tuple[tuple[MoeSizes, Callable[[MoeSizes], str]], ...] = (
    (MoeSizes(512, 512, 256, 32, 8, 8, 4), as_tuple),
    (MoeSizes(1024, 512, 512, 64, 10, 8, 3), annotated),
    (MoeSizes(512, 512, 32, 32, 2), without_groups),
    (MoeSizes(768, 512, 64, 16, 4, 2, 1), computed),
    (MoeSizes(1024, 768, 160, 20, 6, 8, 3), by_keyword),
    (MoeSizes(1280, 768, 384, 48, 8, 1, 1), by_position),
    (MoeSizes(512, 1024, 128, 16, 5, 4, 2), in_a_dictionary),
    (MoeSizes(2048, 512, 96, 96, 3, 4, 4), in_a_class),
    (MoeSizes(512, 512, 128, 128, 8, renorm=True), renorm),
    (MoeSizes(1024, 512, 512, 512, 10, renorm=True), renorm),
)


def promising(definition: dict) -> dict:
    """The same with the promise that all scales are powers of two."""
    return {**definition, "tags": [*definition.get("tags", []), POWER_OF_TWO]}


def definition(sizes: MoeSizes, write: Callable[[MoeSizes], str]) -> dict:
    """The definition with these sizes whose reference ``write`` writes."""
    return moe_definition(sizes, write(sizes))
