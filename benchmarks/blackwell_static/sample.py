"""One config of the sample: built in a worker process, its plans, resources and SASS as a record."""

from __future__ import annotations

import functools
import importlib
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.blackwell_static import sass
from search_spaces.parameters import Config
from search_spaces.space import SearchSpace

TARGET = "sm_100a"
PACKAGE = "blackwell_sample"


def main_definition() -> dict[str, Any]:
    """The form and the sizes of moe_fp8_block_scale_ds_routing_topk8_ng8_kg4_e32_h7168_i2048."""
    axes = {"num_experts": 256, "num_local_experts": 32, "hidden_size": 7168, "intermediate_size": 2048, "top_k": 8}
    axes |= {"gemm1_out_size": 4096, "num_hidden_blocks": 56, "num_intermediate_blocks": 16}
    names = "routing_logits routing_bias hidden_states hidden_states_scale gemm1_weights gemm1_weights_scale"
    names += " gemm2_weights gemm2_weights_scale local_expert_offset routed_scaling_factor"
    fp8 = ("hidden_states", "gemm1_weights", "gemm2_weights")
    return {
        "name": "moe_fp8_block_scale_ds_routing_topk8_ng8_kg4_e32_h7168_i2048",
        "op_type": "moe",
        "axes": {"seq_len": {"type": "var"}, **{k: {"type": "const", "value": v} for k, v in axes.items()}},
        "inputs": {n: {"dtype": "float8_e4m3fn" if n in fp8 else "float32"} for n in names.split()},
        "outputs": {"output": {"dtype": "bfloat16"}},
        "reference": "",
    }


def stage(space: SearchSpace, folder: Path) -> None:
    """The Solution's sources as a package that a worker imports once."""
    (folder / PACKAGE).mkdir(parents=True)
    (folder / PACKAGE / "__init__.py").write_text("")
    for name, text in space.variant_sources(space.default).items():
        (folder / PACKAGE / name).write_text(text)


def compiled(build: Any, config: Config, folder: Path) -> dict[str, dict[str, int]]:
    """Figures of a config's kernels, whatever they spill; their cubins are left in the folder."""
    kept = build.in_folder(folder, functools.partial(build.make, keep=True))
    figures: dict[str, dict[str, dict[str, int]]] = build.compile_configs(
        {"config": dict(config)}, folder, kept, judge=lambda document, found: None
    )
    return figures["config"]


def compile_one(task: tuple[str, Config]) -> dict[str, Any]:
    """Build one config in this worker; a refusal is a result."""
    folder, config = task
    if folder not in sys.path:
        sys.path.insert(0, folder)
    build = importlib.import_module(f"{PACKAGE}.build")
    began, cpu = time.perf_counter(), time.process_time()
    result: dict[str, Any] = {"config": config, "status": "BUILT", "log": "", "gemms": []}
    with tempfile.TemporaryDirectory() as scratch:
        try:
            plans = dict(build.launches(config, build.SIZES))
            figures = compiled(build, config, Path(scratch))
            build.refuse_hangs(figures, plans)
            result["gemms"] = _gemms(plans, figures, Path(scratch))
        except Exception as error:  # a failed config is a row of the table
            result |= {"status": type(error).__name__, "log": str(error)[-500:]}
    return result | {"wall_s": round(time.perf_counter() - began, 2), "cpu_s": round(time.process_time() - cpu, 2)}


def _gemms(plans: Any, figures: dict[str, dict[str, int]], cubins: Path) -> list[dict[str, Any]]:
    """Plan, compiler figures and SASS of both GEMMs, one or two launches each."""
    texts = sass.kernels_below(cubins)
    found = []
    for launch, plan in plans.items():
        name = next(n for n in figures if re.match(rf"{launch}_\d", n))
        text = next(t for n, t in texts.items() if re.match(rf"{launch}_\d", n))
        found.append(
            {
                "launch": launch,
                "stages": plan.stages,
                **figures[name],
                "split_registers": list(plan.registers),
                "smem_bytes": plan.smem_bytes,
                "tmem_columns": plan.tmem_columns,
                "local_in_main_loops": sass.local_in_main_loops(text),
                "main_loops": len(sass.main_loops(text)),
                "sass": sass.counts(text),
            }
        )
    return found
