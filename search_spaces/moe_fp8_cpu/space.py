"""Parameters, constraints and default of the MoE on CPU.

Why Numba and not C++: its wheels bring LLVM, so the real compile step of this space runs on a machine without any
compiler, and Numba's on-disk cache is the artifact that another process loads. A C++ Solution would need the system's
compiler on every builder.

The default is what one would write first: every expert padded to the rows of the busiest one, weights decoded once per
expert by table look-up, one thread.

Measured with ``benchmarks/moe_fp8_cpu_spread.py`` (the default and 39 random configs, packaged workloads, geometric
mean; a virtual machine with 2 AVX2 cores that other work kept busy): best 9.6 ms, default 56 ms, worst 216 ms. A
config compiles in 1.5 to 2.9 s of CPU.

A sweep of 64 trials with BLAS among its starts (2026-11-29, two quiet cores, 143 s with export) ended 1.1 to 5 times as
fast as the torch reference on each packaged workload; before BLAS it was half as fast from 250 tokens up.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search_spaces.moe_fp8.family import MoeFamily
from search_spaces.moe_fp8.reading import read
from search_spaces.parameters import Config, Constraint, Parameter, SpaceError, Value
from search_spaces.space import SearchSpace, Start

SOLUTION = Path(__file__).resolve().parent / "solution"
TILE_BYTES_LIMIT = 256 * 1024
"""Largest decoded weight tile: half of the 512 KiB second-level cache that server cores have at least."""

PARAMETERS = (
    Parameter(
        "product",
        ("loops", "blas", "blas_bf16"),
        "categorical",
        "matrix products by our loops, or by BLAS on decoded weights, in float32 or bfloat16",
    ),
    Parameter(
        "layout",
        ("batched", "masked", "flat"),
        "categorical",
        "rows of an expert: [E, max_M, K] all computed; the same but filling rows skipped; segments by m_indptr",
    ),
    Parameter("row_tile", (4, 8, 16, 32, 64, 128, 512), "ordinal", "rows that go through both GEMMs together"),
    Parameter("col_tile", (16, 32, 64, 128, 256), "ordinal", "weight rows per tile"),
    Parameter("k_block", (32, 64, 128, 256, 512), "ordinal", "values of K summed before the result is stored"),
    Parameter("micro_tile", ("1x1", "1x4", "2x2", "4x2", "4x4"), "categorical", "rows x columns held in registers"),
    Parameter(
        "dequantise", ("expert", "tile"), "categorical", "decode an expert's weights once, or each tile when used"
    ),
    Parameter("decode", ("table", "bits"), "categorical", "fp8 to float32 by look-up or by shifts"),
    Parameter("gather", ("first", "tile"), "categorical", "decode all rows beforehand, or each row tile when used"),
    Parameter(
        "combine", ("scatter", "rows"), "categorical", "add into sums per thread, or store rows and add per token"
    ),
    Parameter("threads", (1, 2), "ordinal", "threads at once"),
)

BLAS_IGNORES: Config = {
    "layout": "flat",
    "col_tile": 64,
    "k_block": 128,
    "micro_tile": "1x1",
    "dequantise": "expert",
    "decode": "bits",
    "gather": "tile",
    "combine": "rows",
}
"""With BLAS, the only value of each parameter that concerns our own loops."""


def _only_for_loops(name: str, value: Value) -> Constraint:
    return Constraint(
        ("product", name),
        f"{name} says how our own loops work; with BLAS it is always {value}",
        lambda c: c["product"] == "loops" or c[name] == value,
    )


CONSTRAINTS = (
    *(_only_for_loops(name, value) for name, value in BLAS_IGNORES.items()),
    Constraint(
        ("product", "row_tile"),
        "a product of fewer than 64 rows leaves BLAS below its peak; more than 128 leave the loops' cache",
        lambda c: c["row_tile"] >= 64 if c["product"] != "loops" else c["row_tile"] <= 128,
    ),
    Constraint(
        ("row_tile", "micro_tile"),
        "the row tile has fewer than twice the rows of the register tile: nothing is reused",
        lambda c: c["row_tile"] >= 2 * int(c["micro_tile"].split("x")[0]),
    ),
    Constraint(
        ("col_tile", "k_block", "dequantise"),
        f"a decoded weight tile is larger than {TILE_BYTES_LIMIT // 1024} KiB and leaves the second-level cache",
        lambda c: c["dequantise"] == "expert" or c["col_tile"] * c["k_block"] * 4 <= TILE_BYTES_LIMIT,
    ),
    Constraint(
        ("row_tile", "dequantise"),
        "each weight tile would be decoded again for fewer than 8 rows",
        lambda c: c["dequantise"] == "expert" or c["row_tile"] >= 8,
    ),
    Constraint(
        ("layout", "gather", "combine"),
        "no buffer depends on the layout, so masked does what flat does",
        lambda c: c["layout"] != "masked" or c["gather"] == "first" or c["combine"] == "rows",
    ),
)

DEFAULT: Config = {
    "product": "loops",
    "layout": "batched",
    "row_tile": 16,
    "col_tile": 64,
    "k_block": 128,
    "micro_tile": "1x4",
    "dequantise": "expert",
    "decode": "table",
    "gather": "first",
    "combine": "scatter",
    "threads": 1,
}


STARTS = tuple(
    Start({**DEFAULT, **BLAS_IGNORES, "product": product, "row_tile": 512, "threads": 2}, 0, None)
    for product in ("blas", "blas_bf16")
)
"""BLAS is a tiny part of the space that random configs rarely hit, and the fastest if experts have several rows."""


class MoeFp8Cpu(MoeFamily):
    """The family for FP8 block-scale MoE with DeepSeek routing; all numbers come from the definition."""

    name = "moe_fp8_cpu"
    targets = ("cpu",)

    def sizes(self, definition: Mapping[str, Any]) -> Mapping[str, Any]:
        return _sizes(definition)

    def space(self, definition: Mapping[str, Any], target: str) -> SearchSpace:
        if target not in self.targets:
            raise SpaceError(f"space {self.name!r} has no target {target!r}; it has {', '.join(self.targets)}")
        why = self.why_not(definition)
        if why is not None:
            raise SpaceError(f"space {self.name!r} cannot solve {definition.get('name')!r}: {why}")
        return SearchSpace(
            name=self.name,
            target=target,
            parameters=PARAMETERS,
            constraints=CONSTRAINTS,
            default=DEFAULT,
            starts=STARTS,
            sources={file.name: file.read_text(encoding="utf-8") for file in sorted(SOLUTION.glob("*.py"))},
            sizes=_sizes(definition),
            size_axis="seq_len",
            dependencies=("numba", "numpy", "torch"),
        )


def _sizes(definition: Mapping[str, Any]) -> dict[str, int]:
    """The constants that the kernels need.

    Raises:
        SpaceError: Something this family needs is missing or not supported; the message says what.
    """
    reading = read(definition)
    if reading.routing != "deepseek":
        raise SpaceError("the routing is a renormalised softmax, this family has DeepSeek's")
    return {
        "num_experts": reading.experts,
        "num_local_experts": reading.local_experts,
        "hidden_size": reading.hidden,
        "intermediate_size": reading.intermediate,
        "top_k": reading.top_k,
        "n_group": reading.groups,
        "topk_group": reading.topk_groups,
    }


FAMILY = MoeFp8Cpu()
