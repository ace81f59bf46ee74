"""How the MoE families read a definition: sizes from its axes, routing constants from its reference's source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from search_spaces.constants import Constants
from search_spaces.parameters import SpaceError

BLOCK = 128
"""Rows and columns of the block that shares a scale."""

DEEPSEEK_INPUTS = (
    "routing_logits",
    "routing_bias",
    "hidden_states",
    "hidden_states_scale",
    "gemm1_weights",
    "gemm1_weights_scale",
    "gemm2_weights",
    "gemm2_weights_scale",
    "local_expert_offset",
    "routed_scaling_factor",
)
RENORM_INPUTS = tuple(
    n for n in DEEPSEEK_INPUTS if n not in ("routing_bias", "local_expert_offset", "routed_scaling_factor")
)

POWER_OF_TWO = "scales:power_of_two"
"""Tag of definitions whose scales are powers of two, like those of DeepSeek-V3.1 checkpoints (UE8M0)."""

_SPELLINGS = {
    "top_k": ({"topk"}, {"topkexperts", "numexpertspertok", "numexpertspertoken", "expertspertoken"}),
    "groups": ({"ngroup", "numexpertgroup", "numexpertgroups"}, {"ngroups", "numgroup", "numgroups"}),
    "topk_groups": ({"topkgroup", "topkgroups"}, {"nlimitedgroups", "numlimitedgroups", "keptgroups"}),
}
"""Names that references give the routing constants, without case and underscores; the second ones count where none of
the first is there, since some of them have other meanings too (groups of scales)."""


@dataclass(frozen=True)
class Reading:
    """The sizes and routing constants of a definition.

    Args:
        hidden: Hidden size H.
        intermediate: Intermediate size I of an expert.
        experts: Experts of all ranks.
        local_experts: Experts of this rank.
        top_k: Experts of a token.
        routing: ``deepseek`` (sigmoid and bias, groups, normalised) or ``renorm`` (softmax over the chosen logits).
        groups: Groups that the experts fall into, 1 for none.
        topk_groups: Groups whose experts may be chosen.
        power_of_two: The definition promises, by the tag ``POWER_OF_TWO``, that every scale is a power of two.
    """

    hidden: int
    intermediate: int
    experts: int
    local_experts: int
    top_k: int
    routing: str
    groups: int
    topk_groups: int
    power_of_two: bool = False

    def __str__(self) -> str:
        return ", ".join(f"{f.name} {getattr(self, f.name)}" for f in fields(self))


def read(definition: Mapping[str, Any]) -> Reading:
    """Read a definition.

    Raises:
        SpaceError: It is not an FP8 block-scale MoE of the known form, or a number is missing or contradicts itself.
    """
    why = _form_problem(definition)
    if why is not None:
        raise SpaceError(why)
    axes = _constant_axes(definition)
    try:
        constants = Constants(definition)
    except SyntaxError as error:
        raise SpaceError(f"its reference is not Python: {error.msg} in line {error.lineno}") from None
    deepseek = tuple(definition["inputs"]) == DEEPSEEK_INPUTS
    local = axes["num_local_experts"]
    top_k = _routing_constant("top_k", axes, constants)
    if top_k is None:
        raise SpaceError("top-k is neither an axis nor a constant of the reference with a name such as TOP_K")
    groups = _routing_constant("groups", axes, constants) if deepseek else 1
    kept = _routing_constant("topk_groups", axes, constants) if deepseek else 1
    if groups is None and kept is not None:
        raise SpaceError("the reference names TOPK_GROUP as a constant, but no N_GROUP")
    if kept is None and groups is not None:
        if _found("groups", 0, axes, constants):
            raise SpaceError("the reference names N_GROUP as a constant, but no TOPK_GROUP")
        groups = None
    reading = Reading(
        hidden=axes["hidden_size"],
        intermediate=axes["intermediate_size"],
        experts=axes["num_experts"] if deepseek else axes.get("num_experts", local),
        local_experts=local,
        top_k=top_k,
        routing="deepseek" if deepseek else "renorm",
        groups=groups or 1,
        topk_groups=kept or 1,
        power_of_two=POWER_OF_TWO in (definition.get("tags") or ()),
    )
    why = _rule_broken(reading)
    if why is not None:
        raise SpaceError(why)
    return reading


def _constant_axes(definition: Mapping[str, Any]) -> dict[str, int]:
    values = {name: axis.get("value") for name, axis in definition.get("axes", {}).items()}
    return {name: value for name, value in values.items() if type(value) is int}


def _found(what: str, rank: int, axes: Mapping[str, int], constants: Constants) -> dict[str, int | float]:
    """Names of one rank of spellings that axes and reference have, with their numbers."""
    spellings = frozenset(_SPELLINGS[what][rank])
    found: dict[str, int | float] = {f"axis {n}": v for n, v in axes.items() if n.replace("_", "").lower() in spellings}
    return found | constants.matching(spellings)


def _routing_constant(what: str, axes: Mapping[str, int], constants: Constants) -> int | None:
    """The one number that axes and reference give under any of its names, None if they give none.

    Raises:
        SpaceError: They give several.
    """
    found = _found(what, 0, axes, constants) or _found(what, 1, axes, constants)
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{name} = {value}" for name, value in found.items())
        raise SpaceError(f"the definition gives {what} several values: {listed}")
    value = next(iter(found.values()), None)
    if isinstance(value, float):
        raise SpaceError(f"{what} is {value}, not a whole number")
    return value


def _form_problem(definition: Mapping[str, Any]) -> str | None:
    """Why the definition is not an FP8 block-scale MoE of the known form, None if it is."""
    if definition.get("op_type") != "moe":
        return f"op_type is {definition.get('op_type')!r}, this family solves 'moe'"
    inputs = definition.get("inputs", {})
    if tuple(inputs) not in (DEEPSEEK_INPUTS, RENORM_INPUTS):
        return "inputs are not those of an FP8 block-scale MoE with DeepSeek or renormalised softmax routing"
    for name in ("hidden_states", "gemm1_weights", "gemm2_weights"):
        if inputs[name].get("dtype") != "float8_e4m3fn":
            return f"{name} is {inputs[name].get('dtype')}, this family takes float8_e4m3fn"
    outputs = definition.get("outputs", {})
    if [o.get("dtype") for o in outputs.values()] != ["bfloat16"]:
        return "the output is not one bfloat16 tensor"
    axes = _constant_axes(definition)
    needed = ["hidden_size", "intermediate_size", "num_local_experts"]
    for name in [*needed, "num_experts"] if tuple(inputs) == DEEPSEEK_INPUTS else needed:
        if axes.get(name, 0) <= 0:
            return f"axis {name!r} is not a positive constant"
    if axes.get("gemm1_out_size") != 2 * axes["intermediate_size"]:
        return f"gemm1_out_size is {axes.get('gemm1_out_size')}, SwiGLU needs twice the intermediate size"
    for name in ("hidden_size", "intermediate_size"):
        if axes[name] % BLOCK:
            return f"{name} {axes[name]} is not a multiple of the scale block {BLOCK}"
    for name, blocks in (("num_hidden_blocks", "hidden_size"), ("num_intermediate_blocks", "intermediate_size")):
        if axes.get(name) != axes[blocks] // BLOCK:
            return f"{name} is {axes.get(name)}, scale blocks must have {BLOCK} elements"
    return None


def _rule_broken(r: Reading) -> str | None:
    """The first rule of the op that the numbers break, None if they break none."""
    if not 1 <= r.topk_groups <= r.groups or r.experts % r.groups:
        return f"{r.experts} experts in {r.groups} groups of which {r.topk_groups} are kept"
    size = r.experts // r.groups
    if (r.groups > 1 and size < 2) or not 1 <= r.top_k <= r.topk_groups * size:
        return f"top-k is {r.top_k} of {r.topk_groups} groups with {size} experts each"
    if r.local_experts > r.experts:
        return f"{r.local_experts} local experts of {r.experts}"
    return None
