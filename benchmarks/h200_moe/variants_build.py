"""Build variants of the FP8 MoE space into one folder each, on a machine that needs no GPU.

    python benchmarks/h200_moe/variants_build.py OUT --dataset DIR [--definition NAME] [--configs FILE] [--sample N]

FILE is a JSON list of configs; keys that are missing take the default's value. ``--sample N`` adds N random valid
configs.
Without either, the default config is built. Each OUT/HASH/ gets the sources, artifacts/ and variant.json with the
config and the static figures; a config that does not build leaves only a line on stderr.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import product  # noqa: F401
from problems import MAIN

from search_spaces.registry import space_for

TIMEOUT_S = 300
_BUILD = """
import importlib, json, sys
folder, name = sys.argv[1:]
sys.path.insert(0, folder)
print(json.dumps(importlib.import_module(name + ".build").build(f"{folder}/{name}/artifacts")))
"""


def build(folder: Path, sources: dict[str, str], config: dict) -> str:
    """Write and build one variant in its own process; the line to report."""
    shutil.rmtree(folder, ignore_errors=True)
    for path, text in sources.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    begin = time.monotonic()
    command = [sys.executable, "-c", _BUILD, str(folder.parent), folder.name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        error = done.stderr.strip().splitlines()[-1:] if done.returncode else []
    except subprocess.TimeoutExpired:
        done, error = None, [f"no end after {TIMEOUT_S} s"]
    seconds = time.monotonic() - begin
    if done is None or done.returncode:
        shutil.rmtree(folder)
        return f"{folder.name} FAILED after {seconds:.1f} s: {' '.join(error)} {json.dumps(config)}"
    figures = json.loads(done.stdout.splitlines()[-1])
    (folder / "variant.json").write_text(json.dumps({"config": config, "build_s": seconds, **figures}, indent=1))
    return f"{folder.name} built in {seconds:.1f} s: registers {figures['registers']}, smem {figures['smem_bytes']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dataset", type=Path, required=True, help="a flashinfer-trace folder")
    parser.add_argument("--definition", default=MAIN.name)
    parser.add_argument("--target", default="sm_90a")
    parser.add_argument("--configs", type=Path)
    parser.add_argument("--sample", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    definition = json.loads(next(args.dataset.glob(f"definitions/*/{args.definition}.json")).read_text())
    space = space_for(definition, args.target, "moe_fp8_cute")
    configs = [{**space.default, **c} for c in json.loads(args.configs.read_text())] if args.configs else []
    rng = random.Random(args.seed)
    configs += [space.sample(rng) for _ in range(args.sample)]
    by_hash = {}
    for config in configs or [space.default]:
        checked = space.check(config)
        why = space.violation(checked)
        if why is not None:
            parser.error(f"{why}: {json.dumps(checked)}")
        by_hash[space.config_hash(checked)] = checked
    args.out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = [
            pool.submit(build, args.out.resolve() / f"v_{name}", space.variant_sources(config), config)
            for name, config in by_hash.items()
        ]
        for job in jobs:
            print(job.result(), file=sys.stderr if "FAILED" in job.result() else sys.stdout, flush=True)


if __name__ == "__main__":
    main()
