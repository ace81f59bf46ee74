"""How far apart configs of moe_fp8_cpu are: best, default and worst of a random sample on the packaged workloads.

    python benchmarks/moe_fp8_cpu_spread.py [--configs 40] [--seed 0]

Each config is compiled in this process and run five times on each workload; the shortest run counts. A config's figure
is the geometric mean over the workloads. One JSON line per config, then a summary line.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from flashinfer_bench.bench.utils import gen_inputs, load_safetensors
from flashinfer_bench.data import TraceSet

from benchmarks.packaged_dataset.make import MOE
from search_spaces.dataset import PATH
from search_spaces.moe_fp8_cpu import FAMILY
from search_spaces.parameters import Config
from search_spaces.space import SearchSpace


def measure(space: SearchSpace, config: Config, inputs: list[list[Any]], folder: Path, number: int) -> dict[str, Any]:
    """Compile one config and time it."""
    package = f"variant_{number}"
    (folder / package).mkdir()
    for name, text in space.variant_sources(config).items():
        (folder / package / name).write_text(text)
    importlib.invalidate_caches()
    figures = importlib.import_module(f"{package}.build").build(str(folder / package))
    run = importlib.import_module(f"{package}.main").run
    times_us = []
    for given in inputs:
        output = torch.empty(given[2].shape, dtype=torch.bfloat16)
        samples = []
        for _ in range(6):
            start = time.perf_counter()
            run(*given, output)
            samples.append((time.perf_counter() - start) * 1e6)
        times_us.append(min(samples[1:]))
    mean_us = math.exp(sum(map(math.log, times_us)) / len(times_us))
    return {
        "config": config,
        "mean_us": round(mean_us, 1),
        "times_us": [round(t, 1) for t in times_us],
        "compile_cpu_s": figures["compile_cpu_s"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--configs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    dataset = TraceSet.from_path(str(PATH))
    definition = dataset.definitions[MOE]
    space = FAMILY.space(json.loads(definition.model_dump_json()), "cpu")
    inputs = []
    for trace in dataset.workloads[MOE]:
        torch.manual_seed(args.seed)
        blobs = load_safetensors(definition, trace.workload, PATH)
        inputs.append(gen_inputs(definition, trace.workload, "cpu", blobs))
    rng = random.Random(args.seed)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        sys.path.insert(0, folder)
        for number in range(args.configs):
            config = space.default if number == 0 else space.sample(rng)
            results.append(measure(space, config, inputs, Path(folder), number))
            print(json.dumps(results[-1]), flush=True)
    best, worst = (pick(results, key=lambda r: r["mean_us"]) for pick in (min, max))
    print(
        f"default {results[0]['mean_us']} us, best {best['mean_us']} us, worst {worst['mean_us']} us: "
        f"worst/best {worst['mean_us'] / best['mean_us']:.1f}"
    )


if __name__ == "__main__":
    main()
