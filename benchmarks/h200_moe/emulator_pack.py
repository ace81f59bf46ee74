"""Build what compares the emulator with a GPU: variants of a small definition, and the inputs of their calls.

    python benchmarks/h200_moe/emulator_pack.py OUT [--sample N] [--seed N] [--target sm_90a]

OUT/variants/NAME are packages for the GPU machine, OUT/ptx/NAME their PTX, OUT/inputs/CASE.npz the inputs. Then
``pack.sh DEST OUT/variants OUT/inputs`` and, on the GPU machine, emulator_dump.py; at last emulator_compare.py here.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from emulator_mistakes import MISTAKES
from product import ROOT

from search_spaces.moe_fp8_cute.routings import weights
from search_spaces.moe_fp8_cute.space import FAMILY
from search_spaces.parameters import Config
from search_spaces.sample_spread import spread
from search_spaces.space import SearchSpace
from workers.emulator.host.launches import HostError, build_with_ptx
from workers.emulator.judge import stage

DATASET = ROOT / "search_spaces" / "dataset" / "definitions" / "moe"


def small_space(target: str) -> SearchSpace:
    """The space of the packaged definition."""
    (path,) = DATASET.glob("moe_fp8_block_scale_*.json")
    return FAMILY.space(json.loads(path.read_text()), target)


def configs(space: SearchSpace, sample: int, seed: int) -> list[Config]:
    """The default, the starts and a spread sample, each once."""
    found = {space.config_hash(c): c for c in [space.default, *(s.config for s in space.starts)]}
    for config in spread(space, sample, seed):
        found.setdefault(space.config_hash(config), config)
    return list(found.values())


def mistaken(space: SearchSpace) -> dict[str, tuple[Config, dict[str, str]]]:
    """Name -> (config, sources) of the variants with planted mistakes."""
    found = {}
    for number, mistake in enumerate(MISTAKES):
        config = {**space.default, **mistake.config}
        found[f"m_{number:02}"] = config, mistake.planted(space.variant_sources(config))
    return found


def build(name: str, config: Config, sources: Mapping[str, str], out: Path) -> str:
    """Build one variant; the line to report."""
    package, ptx = out / "variants" / name, out / "ptx" / name
    if (package / "variant.json").is_file():
        return f"{name} is there"
    shutil.rmtree(package, ignore_errors=True)
    stage(sources, package)
    try:
        build_with_ptx(package)
    except HostError as error:
        shutil.rmtree(package)
        return f"{name} FAILED: {error}"
    ptx.mkdir(parents=True, exist_ok=True)
    for path in (package / "artifacts").glob("*.ptx"):
        path.rename(ptx / path.name)
    shutil.rmtree(package / "__pycache__", ignore_errors=True)
    (package / "variant.json").write_text(json.dumps(config, indent=1))
    return f"{name} built"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--target", default="sm_90a")
    parser.add_argument("--sample", type=int, default=18)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mistakes", action="store_true", help="instead: one variant for each of emulator_mistakes.py")
    args = parser.parse_args()
    space = small_space(args.target)
    (args.out / "inputs").mkdir(parents=True, exist_ok=True)
    shared = weights(space.sizes)
    np.savez_compressed(args.out / "inputs" / "weights.npz", **shared)
    for case in FAMILY.emulated_cases(space, space.default):
        own = {name: value for name, value in case.inputs.items() if name not in shared}
        scalars = {"offset": np.int64(case.offset), "scaling": np.float64(case.scaling)}
        np.savez_compressed(args.out / "inputs" / f"{case.name.replace(' ', '_')}.npz", **own, **scalars)
    if args.mistakes:
        variants = mistaken(space)
    else:
        chosen = configs(space, args.sample, args.seed)
        variants = {f"e_{space.config_hash(c)}": (c, space.variant_sources(c)) for c in chosen}
    for name, (config, sources) in variants.items():
        print(build(name, config, sources, args.out), flush=True)


if __name__ == "__main__":
    main()
