"""Compile a spread sample of the sm_100a space on this machine's CPUs and write down what the compiler says.

    python -m benchmarks.blackwell_static --sample 300 --jobs 2 --out docs/results/blackwell-static.json

Every config is built in full (all kernels, host function, object file) for the main definition's sizes. It needs no
GPU, of packages only nvidia-cutlass-dsl and apache-tvm-ffi, and nvdisasm (PyPI: nvidia-cuda-nvdisasm>=13.4) on PATH.
Finished configs are appended to ``OUT.partial`` and not built again while the sources are the same. At the end the
document is written and the table for docs/kernels.md goes to stdout.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.blackwell_static.sample import TARGET, compile_one, main_definition, stage
from benchmarks.blackwell_static.sass import disassembler
from benchmarks.blackwell_static.table import summary, table
from search_spaces.moe_fp8_cute.space import FAMILY
from search_spaces.sample_spread import spread


def finished(path: Path, fingerprint: str) -> list[dict[str, Any]]:
    """Results of an earlier run on the same sources."""
    if not path.is_file():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if line.pop("fingerprint") == fingerprint]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sample", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-s", type=float, default=float("inf"), help="start no further config after this time")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        disassembler()
    except RuntimeError as error:
        parser.error(str(error))
    space = FAMILY.space(main_definition(), TARGET)
    configs = spread(space, arguments.sample, arguments.seed)
    partial = arguments.out.with_suffix(".partial")
    done = finished(partial, space.fingerprint)
    hashes = {space.config_hash(r["config"]) for r in done}
    todo = [c for c in configs if space.config_hash(c) not in hashes]
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        stage(space, Path(folder))
        late = (c for c in todo if time.perf_counter() - began < arguments.limit_s)
        with multiprocessing.get_context("spawn").Pool(arguments.jobs) as pool, partial.open("a") as log:
            window = arguments.jobs * 2
            pending = [pool.apply_async(compile_one, ((folder, c),)) for _, c in zip(range(window), late, strict=False)]
            while pending:
                result = pending.pop(0).get()
                done.append(result)
                log.write(json.dumps({**result, "fingerprint": space.fingerprint}) + "\n")
                log.flush()
                pending += [pool.apply_async(compile_one, ((folder, c),)) for _, c in zip(range(1), late, strict=False)]
                print(f"{len(done)} of {len(configs)}: {result['status']} {result['log'][:200]}", file=sys.stderr)
    wall_s = time.perf_counter() - began
    document = {"space": space.name, "target": TARGET, "fingerprint": space.fingerprint, "jobs": arguments.jobs}
    document |= {"wall_s_of_last_run": round(wall_s, 1), "summary": summary(done), "variants": done}
    arguments.out.write_text(json.dumps(document, separators=(",", ":")) + "\n")
    print(table(done))


if __name__ == "__main__":
    main()
