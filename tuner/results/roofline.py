"""The roofline of a workload: the least time that the bandwidth and the arithmetic rate of the hardware allow.

A model, not a measurement. A GPU's rates are those of its data sheet, a CPU's were measured on the machine. The model
assumes that each byte that a kernel needs is moved once, that intermediate results stay on the chip, and that
arithmetic overlaps with memory. A router's choices are assumed to be even; with a real router that prefers few experts
a kernel can be faster than this.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from db.records import SweepRecord, WinnerRecord
from db.store import Store
from search_spaces.targets import TARGETS


@dataclass(frozen=True)
class Peak:
    """Peak rates: of a GPU's data sheet, without sparsity, or measured."""

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


@dataclass(frozen=True)
class Roofline:
    """The rooflines of a sweep's workloads.

    Args:
        us: Workload -> least time in microseconds, for workloads that have one.
        origin: Where the rates come from, for a caption.
        label: The same in two words, for a line in a plot.
    """

    us: Mapping[str, float]
    origin: str
    label: str


def of_sweep(store: Store, sweep: SweepRecord, winners: Sequence[WinnerRecord]) -> Roofline:
    """The roofline of each workload that a winner was measured on."""
    rates = store.catalog.rates(sweep.environment_id)
    us = floors(store.catalog.definition_body(sweep.definition_id), winners, sweep.hardware, rates)
    return Roofline(us, source(sweep.hardware, rates), f"roofline ({'measured rates' if rates else 'data sheet'})")


def floors(
    definition: Mapping[str, Any], winners: Sequence[WinnerRecord], hardware: str, rates: Mapping[str, float]
) -> dict[str, float]:
    """Workload -> roofline in microseconds, for workloads that have one; see :func:`floor_us`."""
    if not definition:
        return {}
    found = {w.workload: floor_us(definition, w.axes, hardware, rates) for r in winners for w in r.workloads}
    return {workload: us for workload, us in found.items() if us is not None}


def source(hardware: str, rates: Mapping[str, float]) -> str:
    """Where the rates come from, for a caption."""
    if not rates:
        return f"the data sheet of {hardware}"
    copy, flop = rates["copy_bytes_per_us"] / 1e3, rates["multiply_add_flop_per_us"] / 1e3
    return f"rates measured on this {hardware}: {copy:.3g} GB/s copied, {flop:.3g} Gflop/s multiplied and added"


def floor_us(
    definition: Mapping[str, Any], axes: Mapping[str, int], hardware: str, rates: Mapping[str, float] | None = None
) -> float | None:
    """The roofline's time for one workload; None where the hardware's peaks or the definition's work are not known.

    Args:
        definition: Document of the definition.
        axes: The workload's variable axes.
        hardware: Name of the GPU as the environment records it.
        rates: Measured rates as :meth:`db.queries.catalog.Catalog.rates` gives them, where there is no data sheet.
    """
    peak = next((p for pattern, p in PEAKS if re.search(pattern, hardware)), None)
    if rates:  # of whatever type the operands are: they can be converted on the way
        peak = Peak(rates["copy_bytes_per_us"], dict.fromkeys(_BYTES, rates["multiply_add_flop_per_us"]))
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
