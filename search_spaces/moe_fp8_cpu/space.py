"""Parameters, constraints and default of the MoE on CPU.

Why Numba and not C++: its wheels bring LLVM, so the real compile step of this space runs on a machine without any
compiler, and Numba's on-disk cache is the artifact that another process loads. A C++ Solution would need the system's
compiler on every builder.

The default is the layout one writes first: every expert padded to the rows of the busiest, weights decoded once per
expert by table look-up, one thread.

Measured with ``benchmarks/moe_fp8_cpu_spread.py`` (the default and 39 random configs, packaged workloads, geometric
mean; a virtual machine with 2 AVX2 cores that other work kept busy): best 9.6 ms, default 56 ms, worst 216 ms. A
config compiles in 1.5 to 2.9 s of CPU.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search_spaces.space import Config, Constraint, Parameter, Scalar, SearchSpace, SpaceError, SpaceFamily, Start

SOLUTION = Path(__file__).resolve().parent / "solution"
TILE_BYTES_LIMIT = 256 * 1024
"""Largest decoded weight tile: half of the 512 KiB second-level cache that server cores have at least."""

INPUTS = (
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
AXES = ("num_experts", "num_local_experts", "hidden_size", "intermediate_size")
GEOMETRY = re.compile(r"_ds_routing_topk(\d+)_ng(\d+)_kg(\d+)_")
"""Routing constants are in the name alone; a definition has no axis for them."""

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
"""The one value under BLAS of each parameter that says how our own loops work."""


def _only_for_loops(name: str, value: Scalar) -> Constraint:
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
"""BLAS is a sliver of the space that a random config hardly meets, and wins wherever experts have some rows."""


class MoeFp8Cpu(SpaceFamily):
    """The family for every ``moe_fp8_block_scale_ds_routing`` definition; sizes come from the definition."""

    name = "moe_fp8_cpu"
    targets = ("cpu",)

    def why_not(self, definition: Mapping[str, Any]) -> str | None:
        if definition.get("op_type") != "moe":
            return f"op_type is {definition.get('op_type')!r}, not 'moe'"
        name = str(definition.get("name"))
        if not name.startswith("moe_fp8_block_scale_ds_routing_") or not GEOMETRY.search(name):
            return f"name {name!r} is not moe_fp8_block_scale_ds_routing_topk<n>_ng<n>_kg<n>_..."
        if tuple(definition.get("inputs", ())) != INPUTS:
            return f"inputs are {', '.join(definition.get('inputs', ()))}; needed are {', '.join(INPUTS)}"
        return _why_sizes_not(_sizes(definition))

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
            sources={file.name: file.read_text() for file in sorted(SOLUTION.glob("*.py"))},
            sizes=_sizes(definition),
            size_axis="seq_len",
            dependencies=("numba", "numpy", "torch"),
        )


def _sizes(definition: Mapping[str, Any]) -> dict[str, int]:
    """The constants that the kernels need; 0 for an axis that is missing or not constant."""
    found = GEOMETRY.search(str(definition.get("name")))
    geometry = [int(n) for n in found.groups()] if found else [0, 0, 0]
    axes = definition.get("axes", {})
    sizes = {axis: int(axes.get(axis, {}).get("value", 0)) for axis in AXES}
    return {**sizes, "top_k": geometry[0], "n_group": geometry[1], "topk_group": geometry[2]}


def _why_sizes_not(sizes: Mapping[str, int]) -> str | None:
    """The first rule of the op that the sizes break, None if all hold."""
    for axis in AXES:
        if sizes[axis] <= 0:
            return f"axis {axis!r} is not a positive constant"
    for axis in ("hidden_size", "intermediate_size"):
        if sizes[axis] % 128:
            return f"{axis} {sizes[axis]} is not a multiple of the scale block 128"
    experts, groups, kept, top_k = (sizes[n] for n in ("num_experts", "n_group", "topk_group", "top_k"))
    if not 1 <= kept <= groups or experts % groups:
        return f"{experts} experts in {groups} groups of which {kept} are kept"
    if experts // groups < 2 or not 1 <= top_k <= kept * (experts // groups):
        return f"{top_k} of {kept} groups with {experts // groups} experts each"
    if sizes["num_local_experts"] > experts:
        return f"{sizes['num_local_experts']} local experts of {experts}"
    return None


FAMILY = MoeFp8Cpu()
