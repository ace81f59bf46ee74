"""Write the packaged dataset: definitions, workloads and routing tensors. The same bytes on every run.

    python -m benchmarks.packaged_dataset.make [FOLDER]

The routing tensors are synthetic: per-expert popularity plus topics that tokens share plus noise, so that expert
loads are uneven as in a served model. All other inputs are ``random``, as in the public dataset: fp8 values are
normal within +-2 and float32 scales are standard normal. Outputs of the MoE are then in the thousands, far above the
absolute tolerance of 0.1, so the relative tolerance decides.
"""

from __future__ import annotations

import argparse
import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from search_spaces.dataset import PATH

GEMM = "gemm_n512_k1024"
RMSNORM = "rmsnorm_h1024"

NUM_EXPERTS = 32
SEED = 20260203
MOE_WORKLOADS = ((1, 8), (8, 24), (56, 16), (250, 8), (900, 24), (2000, 16))
"""``(seq_len, local_expert_offset)``. At least half of the tokens use a local expert, so that zeros never pass."""
GEMM_M = (1, 7, 64, 301, 1024)
RMSNORM_BATCH = (1, 16, 129, 1024, 4096)


def const(value: int, description: str) -> dict[str, Any]:
    """An axis that is fixed by the definition."""
    return {"type": "const", "value": value, "description": description}


def tensor(shape: list[str] | None, dtype: str, description: str) -> dict[str, Any]:
    """A tensor, or with shape None a scalar."""
    return {"shape": shape, "dtype": dtype, "description": description}


@dataclass(frozen=True)
class MoeSizes:
    """Numbers of an FP8 block-scale MoE; ``renorm``: softmax over the chosen logits, without bias and ranks."""

    hidden: int
    intermediate: int
    experts: int
    local: int
    top_k: int
    groups: int = 1
    topk_groups: int = 1
    renorm: bool = False

    @property
    def name(self) -> str:
        """Name in the style of the public definitions."""
        shape = f"e{self.local}_h{self.hidden}_i{self.intermediate}"
        if self.renorm:
            return f"moe_fp8_block_scale_renorm_topk{self.top_k}_{shape}"
        return f"moe_fp8_block_scale_ds_routing_topk{self.top_k}_ng{self.groups}_kg{self.topk_groups}_{shape}"


MOE_SIZES = MoeSizes(512, 256, NUM_EXPERTS, 8, 4, 4, 2)
MOE = MOE_SIZES.name


def moe_definition(sizes: MoeSizes = MOE_SIZES, source: str | None = None) -> dict[str, Any]:
    """A MoE with the inputs, in the order, of the public definitions.

    Args:
        sizes: Default: those of the packaged definition.
        source: Source text of the reference, which must be written for the same sizes.
    """
    fp8, f32 = "float8_e4m3fn", "float32"
    first = ["num_local_experts", "num_gemm1_out_blocks", "num_hidden_blocks"]
    second = ["num_local_experts", "num_hidden_blocks", "num_intermediate_blocks"]
    hidden, inter = sizes.hidden, sizes.intermediate
    inputs = {
        "routing_logits": tensor(["seq_len", "num_experts"], "bfloat16" if sizes.renorm else f32, "Router output."),
        "routing_bias": tensor(["num_experts"], "bfloat16", "Added for the choice of experts only."),
        "hidden_states": tensor(["seq_len", "hidden_size"], fp8, "Activations."),
        "hidden_states_scale": tensor(["num_hidden_blocks", "seq_len"], f32, "Scales of the activations."),
        "gemm1_weights": tensor(
            ["num_local_experts", "gemm1_out_size", "hidden_size"], fp8, "Rows of the value, then of the gate."
        ),
        "gemm1_weights_scale": tensor(first, f32, "One scale per 128x128 block."),
        "gemm2_weights": tensor(["num_local_experts", "hidden_size", "intermediate_size"], fp8, "Down projection."),
        "gemm2_weights_scale": tensor(second, f32, "One scale per 128x128 block."),
        "local_expert_offset": tensor(None, "int32", "First expert of this rank."),
        "routed_scaling_factor": tensor(None, f32, "Factor of the normalised weights."),
    }
    if sizes.renorm:
        for name in ("routing_bias", "local_expert_offset", "routed_scaling_factor"):
            del inputs[name]
    return {
        "name": sizes.name,
        "op_type": "moe",
        "description": "FP8 block-scale MoE with DeepSeek-V3 routing, reduced so that a CPU runs it in milliseconds."
        if sizes == MOE_SIZES
        else "FP8 block-scale MoE.",
        "tags": ["quantization:float8_e4m3fn", f"ep:{sizes.experts // sizes.local}"],
        "axes": {
            "seq_len": {"type": "var", "description": "Number of tokens."},
            "num_experts": const(sizes.experts, "Experts of all ranks."),
            "num_local_experts": const(sizes.local, "Experts of this rank."),
            "hidden_size": const(hidden, "Hidden size."),
            "intermediate_size": const(inter, "Intermediate size of an expert."),
            "gemm1_out_size": const(2 * inter, "Twice the intermediate size."),
            "num_hidden_blocks": const(hidden // 128, "Scale blocks of 128 along the hidden size."),
            "num_intermediate_blocks": const(inter // 128, "Scale blocks of 128 along the intermediate size."),
            "num_gemm1_out_blocks": const(2 * inter // 128, "Scale blocks of 128 along the first GEMM's output."),
        },
        "inputs": inputs,
        "outputs": {"output": tensor(["seq_len", "hidden_size"], "bfloat16", "Weighted sum of the local experts.")},
        "reference": reference("moe") if source is None else source,
    }


def gemm_definition() -> dict[str, Any]:
    """C = A @ B.T in float16."""
    return {
        "name": GEMM,
        "op_type": "gemm",
        "description": "General matrix multiply C = A @ B.T with N=512, K=1024.",
        "axes": {
            "M": {"type": "var", "description": "Rows."},
            "N": const(512, "Columns."),
            "K": const(1024, "Reduction size."),
        },
        "inputs": {
            "A": tensor(["M", "K"], "float16", "Left operand."),
            "B": tensor(["N", "K"], "float16", "Right operand, transposed."),
        },
        "outputs": {"C": tensor(["M", "N"], "float16", "Product.")},
        "reference": reference("gemm"),
    }


def rmsnorm_definition() -> dict[str, Any]:
    """RMSNorm over 1024 columns in bfloat16."""
    return {
        "name": RMSNORM,
        "op_type": "rmsnorm",
        "description": "Root mean square norm with hidden_size=1024, epsilon 1e-6.",
        "axes": {
            "batch_size": {"type": "var", "description": "Rows."},
            "hidden_size": const(1024, "Columns."),
        },
        "inputs": {
            "hidden_states": tensor(["batch_size", "hidden_size"], "bfloat16", "Rows to normalise."),
            "weight": tensor(["hidden_size"], "bfloat16", "Factor of each column."),
        },
        "outputs": {"output": tensor(["batch_size", "hidden_size"], "bfloat16", "Normalised rows.")},
        "reference": reference("rmsnorm"),
    }


def reference(name: str) -> str:
    """Source text of a reference."""
    return (Path(__file__).parent / "references" / f"{name}.py").read_text(encoding="utf-8")


def routing(seq_len: int) -> dict[str, torch.Tensor]:
    """``routing_logits`` float32 [seq_len, 32] and ``routing_bias`` bfloat16 [32] of a workload."""
    model = np.random.default_rng(SEED)  # the part that belongs to the model: popularity, topics, bias
    popularity = model.normal(0.0, 0.7, NUM_EXPERTS)
    topics = model.normal(0.0, 1.0, (6, NUM_EXPERTS))
    bias = model.normal(0.0, 0.03, NUM_EXPERTS)
    batch = np.random.default_rng([SEED, seq_len])
    logits = popularity + batch.normal(0.0, 0.3, (seq_len, 6)) @ topics + batch.normal(0.0, 0.8, (seq_len, NUM_EXPERTS))
    return {
        "routing_logits": torch.tensor(logits, dtype=torch.float32),
        "routing_bias": torch.tensor(bias, dtype=torch.bfloat16),
    }


def trace(definition: dict[str, Any], axis: str, size: int, given: dict[str, Any]) -> dict[str, Any]:
    """One line of a workload file; inputs that are not given are random."""
    inputs = {name: given.get(name, {"type": "random"}) for name in definition["inputs"]}
    key = uuid.uuid5(uuid.NAMESPACE_URL, f"{definition['name']}/{axis}={size}")
    workload = {"uuid": str(key), "axes": {axis: size}, "inputs": inputs}
    return {"definition": definition["name"], "solution": None, "workload": workload, "evaluation": None}


def moe_traces(folder: Path, definition: dict[str, Any]) -> list[dict[str, Any]]:
    """The MoE's workloads; writes their routing tensors."""
    lines = []
    for seq_len, offset in MOE_WORKLOADS:
        path = Path("blob", "workloads", "moe", MOE, f"{MOE}_t{seq_len}.safetensors")
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        save_file(routing(seq_len), folder / path)
        given: dict[str, Any] = {
            name: {"type": "safetensors", "path": f"./{path.as_posix()}", "tensor_key": name}
            for name in ("routing_logits", "routing_bias")
        }
        given["local_expert_offset"] = {"type": "scalar", "value": offset}
        given["routed_scaling_factor"] = {"type": "scalar", "value": 2.5}
        lines.append(trace(definition, "seq_len", seq_len, given))
    return lines


def write(folder: Path) -> None:
    """Write the whole dataset under a folder."""
    moe, gemm, rmsnorm = moe_definition(), gemm_definition(), rmsnorm_definition()
    for definition, traces in (
        (moe, moe_traces(folder, moe)),
        (gemm, [trace(gemm, "M", m, {}) for m in GEMM_M]),
        (rmsnorm, [trace(rmsnorm, "batch_size", b, {}) for b in RMSNORM_BATCH]),
    ):
        place = Path(definition["op_type"], definition["name"])
        listing = folder / "definitions" / place.with_name(f"{place.name}.json")
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text(json.dumps(definition, indent=2) + "\n", encoding="utf-8")
        workloads = folder / "workloads" / place.with_name(f"{place.name}.jsonl")
        workloads.parent.mkdir(parents=True, exist_ok=True)
        workloads.write_text("".join(json.dumps(line) + "\n" for line in traces), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=PATH)
    write(parser.parse_args().folder)
