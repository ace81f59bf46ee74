"""The roofline of a workload: the least time that the data sheet's bandwidth and arithmetic rate allow.

A model, not a measurement. It assumes that each byte that a kernel needs is moved once, that intermediate results stay
on the chip, and that arithmetic overlaps with memory. A router's choices are assumed to be even; with a real router
that prefers few experts a kernel can be faster than this.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from workers.devices.targets import TARGETS


@dataclass(frozen=True)
class Peak:
    """Peak rates of a GPU's data sheet, without sparsity."""

    bytes_per_us: float
    flop_per_us: Mapping[str, float]


def _peak(terabytes_per_s: float, bf16_teraflop_per_s: float) -> Peak:
    bf16 = bf16_teraflop_per_s * 1e6
    return Peak(terabytes_per_s * 1e6, {"bfloat16": bf16, "float16": bf16, "float8_e4m3fn": 2 * bf16})


def _peaks() -> Iterator[tuple[str, Peak]]:
    """Name that the driver reports -> peak rates; the special variants of a model before the model."""
    for accelerator in (a for target in TARGETS for a in target.accelerators):
        for words, rates in accelerator.variants.items():
            yield rf"\b{accelerator.name} {words}\b", _peak(*rates)
        if accelerator.terabytes_per_s is not None and accelerator.bf16_teraflop_per_s is not None:
            yield rf"\b{accelerator.name}\b", _peak(accelerator.terabytes_per_s, accelerator.bf16_teraflop_per_s)


PEAKS = tuple(_peaks())

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "int64": 8, "int32": 4, "bool": 1}
_EXPERTS, _LOCAL = "num_experts", "num_local_experts"


@dataclass(frozen=True)
class Work:
    """The least work of a workload; ``dtype`` is the type of the operands of its multiplications."""

    bytes: float
    flop: float
    dtype: str


def floor_us(definition: Mapping[str, Any], axes: Mapping[str, int], hardware: str) -> float | None:
    """The roofline's time for one workload; None where the GPU's peaks or the definition's work are not known.

    Args:
        definition: Document of the definition.
        axes: The workload's variable axes.
        hardware: Name of the GPU as the environment records it.
    """
    peak = next((p for pattern, p in PEAKS if re.search(pattern, hardware)), None)
    try:
        work = _work(definition, axes)
    except (KeyError, TypeError):  # an axis or a data type that is unknown here
        return None
    if peak is None or work is None:
        return None
    rate = peak.flop_per_us.get(work.dtype)
    return max(work.bytes / peak.bytes_per_us, work.flop / rate if rate else 0.0)


def _work(definition: Mapping[str, Any], axes: Mapping[str, int]) -> Work | None:
    sizes = {n: a["value"] for n, a in definition["axes"].items() if a["type"] == "const"} | dict(axes)
    inputs, outputs = definition["inputs"], definition["outputs"]
    everything = [*inputs.values(), *outputs.values()]
    if definition["op_type"] == "gemm" and len(inputs) == 2 and len(outputs) == 1:
        flop = 2 * math.sqrt(math.prod(_elements(t, sizes) for t in everything))
        return Work(sum(_bytes(t, sizes) for t in everything), flop, next(iter(inputs.values()))["dtype"])
    if definition["op_type"] == "rmsnorm":
        return Work(sum(_bytes(t, sizes) for t in everything), 0.0, "")
    if definition["op_type"] == "moe":
        return _moe(definition, sizes)
    return None


def _moe(definition: Mapping[str, Any], sizes: Mapping[str, int]) -> Work | None:
    """Tokens in and out, and the weights of the experts that get a token if all are chosen equally often."""
    chosen = re.search(r"topk(\d+)", definition["name"])
    tensors = {**definition["inputs"], **definition["outputs"]}
    experts = {n: t for n, t in tensors.items() if (t["shape"] or [None])[0] == _LOCAL}
    weights = [t for n, t in experts.items() if not n.endswith("scale") and len(t["shape"]) == 3]
    if chosen is None or not weights:
        return None
    tokens, share = sizes["seq_len"], int(chosen[1]) / sizes[_EXPERTS]
    busy = 1 - (1 - share) ** tokens
    rows = tokens * share * sizes[_LOCAL]
    moved = sum(_bytes(t, sizes) * (busy if n in experts else 1.0) for n, t in tensors.items())
    flop = 2 * rows * sum(_elements(t, sizes) for t in weights) / sizes[_LOCAL]
    return Work(moved, flop, weights[0]["dtype"])


def _elements(tensor: Mapping[str, Any], sizes: Mapping[str, int]) -> int:
    return math.prod(sizes[name] for name in tensor["shape"] or ())


def _bytes(tensor: Mapping[str, Any], sizes: Mapping[str, int]) -> int:
    return _elements(tensor, sizes) * _BYTES[tensor["dtype"]]
