"""Judges many sm_100a configs on the emulator, one after the other, into one resumable file.

    python -m benchmarks.emulation sample --out build/emulated.json

Sets: ``ladder`` (the rungs of docs/b200.md), ``starts`` (the space's), ``starts_ranked`` (the first of them, which the
model ranks first), ``starts_scaled`` (those with scaled MMAs, with scales that are powers of two, as they need),
``sample`` (a stratified sample: every value of every parameter about equally often), ``second_n`` (random configs in
which GEMM 1 multiplies tiles of few rows with an N of their own), ``real`` (a stratified sample at the hidden and the
intermediate size of the main definition, two local experts), ``again`` (recorded configs whose kernels have changed
since, see kernels.py). No GPU; about a minute of a core for a config, half of it
compiling.

Each record says what it was made of and by: the space's fingerprint, a digest of the variant's sources, the compiler,
the seed, the last commit that touched kernels or emulator, and a digest of the emulator and of what it checks
(``method``).
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.emulation.method import commit, digest, method
from benchmarks.packaged_dataset.make import MOE_SIZES, MoeSizes, moe_definition
from search_spaces.moe_fp8.reading import POWER_OF_TWO
from search_spaces.moe_fp8_cute.routings import ROUTINGS, Routing
from search_spaces.moe_fp8_cute.space import FAMILY
from search_spaces.moe_fp8_cute.stages import cases
from search_spaces.parameters import Config
from search_spaces.sample_spread import spread
from search_spaces.space import SearchSpace
from workers.emulator.host.launches import compile_mock
from workers.emulator.judge import judge_sources

TARGET = "sm_100a"
STARTS = ("starts", "starts_ranked", "starts_scaled")
RANKED = 5
"""Starts that the model ranked first: one for each regime, and the last of them with clusters that may fall back."""
LADDER = Path(__file__).parent.parent / "h200_moe" / "b200_ladder.json"
ROOMY = MoeSizes(1024, 512, 64, 4, 3, 8, 4)
"""Small sizes at which every start is valid."""
SLICE = MoeSizes(7168, 2048, 32, 2, 2, 8, 4)
"""Hidden and intermediate size of the main definition, of 32 local experts two."""
FEW_ROWS = (
    Routing("one token", 1, local_share=3.0),
    Routing("uneven", 21, "uneven", 1.0),
)
"""At real sizes a row is dear."""
SETS: dict[str, tuple[MoeSizes, tuple[Routing, ...]]] = {
    "ladder": (MOE_SIZES, ROUTINGS),
    "starts": (ROOMY, ROUTINGS),
    "starts_ranked": (ROOMY, ROUTINGS),
    "starts_scaled": (ROOMY, ROUTINGS),
    "sample": (MOE_SIZES, ROUTINGS),
    "second_n": (MOE_SIZES, ROUTINGS),
    "again": (MOE_SIZES, ROUTINGS),
    "real": (SLICE, FEW_ROWS),
}


def space_of(sizes: MoeSizes, promising: bool = False) -> SearchSpace:
    """The space for a definition of these sizes; ``promising`` scales that are powers of two."""
    routing = f"TOP_K, N_GROUP, TOPK_GROUP = {sizes.top_k}, {sizes.groups}, {sizes.topk_groups}\n"
    definition = moe_definition(sizes, routing)
    return FAMILY.space({**definition, "tags": [POWER_OF_TWO]} if promising else definition, TARGET)


def configs_of(name: str, space: SearchSpace, count: int, seed: int) -> list[Config]:
    """The configs of a set."""
    if name == "ladder":
        return [{**space.default, **rung} for rung in json.loads(LADDER.read_text())]
    if name in STARTS:
        starts = [dict(start.config) for start in space.starts]
        scaled = [c for c in starts if c["scaled_1"] or c["scaled_2"]]
        return {"starts": starts, "starts_ranked": starts[:RANKED], "starts_scaled": scaled}[name]
    if name == "second_n":
        rng = random.Random(seed)
        drawn = (space.sample(rng) for _ in itertools.count())
        return list(itertools.islice((c for c in drawn if c["swap_1"] and 0 < c["narrow"] < c["tile_t_1"]), count))
    return spread(space, count, seed)


def recorded_configs(path: Path, hashes: list[str], space: SearchSpace) -> list[Config]:
    """Recorded configs, with the defaults of parameters that the space has got since.

    Args:
        path: A file of this command, or docs/results/emulation.json.
        hashes: What the records call them.
        space: Of the sizes of set ``again``.
    """
    document = json.loads(path.read_text())
    records = {r["hash"]: r["config"] for r in document.get("configs", document.get("variants"))}
    return [{**space.default, **records[name]} for name in hashes]


def judged(space: SearchSpace, configs: list[Config], routings: tuple[Routing, ...]) -> Iterator[dict[str, Any]]:
    """One record a config: its verdicts on the routings, in order up to the first failure."""
    compiler = f"nvidia-cutlass-dsl {version('nvidia-cutlass-dsl')}"
    made_by = {"fingerprint": space.fingerprint, "method": method(), "commit": commit(), "compiler": compiler}
    with tempfile.TemporaryDirectory(prefix="tuner-emulation-") as scratch:
        mock = compile_mock(Path(scratch))
        for number, config in enumerate(configs):
            began = time.perf_counter()
            folder = Path(scratch) / f"variant_{number}"
            inputs = cases(config, space.sizes, space.target, routings)
            sources = space.variant_sources(config)
            verdicts = judge_sources(sources, inputs, folder, mock)
            yield {
                "hash": space.config_hash(config),
                "config": config,
                **made_by,
                "sources": digest((name, text.encode()) for name, text in sources.items()),
                "status": verdicts[-1].status.value,
                "passed": verdicts[-1].is_passed and len(verdicts) == len(inputs),
                "cases": [v.document() for v in verdicts],
                "wall_s": round(time.perf_counter() - began, 1),
            }
            shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("set", choices=sorted(SETS))
    parser.add_argument("--count", type=int, default=60, help="configs of a sample")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="JSON; what it already has is not judged again")
    parser.add_argument("--of", type=Path, metavar="RECORDS", help="where the configs of `again` were recorded")
    parser.add_argument("--hash", nargs="+", default=[], help="the configs of `again`")
    arguments = parser.parse_args()
    sizes, routings = SETS[arguments.set]
    space = space_of(sizes, promising=arguments.set == "starts_scaled")
    records = json.loads(arguments.out.read_text())["variants"] if arguments.out.is_file() else []
    now = (arguments.set, space.fingerprint, method())
    done = {r["hash"] for r in records if (r["set"], r["fingerprint"], r["method"]) == now}
    if arguments.set == "again":
        if not (arguments.of and arguments.hash):
            parser.error("again needs --of RECORDS and --hash HASH ...")
        configs = recorded_configs(arguments.of, arguments.hash, space)
    else:
        configs = configs_of(arguments.set, space, arguments.count, arguments.seed)
    for record in judged(space, [c for c in configs if space.config_hash(c) not in done], routings):
        drawn = {"count": arguments.count, "seed": arguments.seed} if arguments.set not in ("ladder", *STARTS) else {}
        records.append({"set": arguments.set, "definition": sizes.name, **drawn, **record})
        whole = arguments.out.with_suffix(".part")
        whole.write_text(json.dumps({"emulated": True, "variants": records}, indent=1) + "\n")
        whole.replace(arguments.out)
        last = record["cases"][-1]
        print(len(records), record["status"], record["wall_s"], last["kernel"], last["message"][:200], file=sys.stderr)
    print(Counter((r["set"], r["status"]) for r in records))


if __name__ == "__main__":
    main()
