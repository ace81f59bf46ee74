"""What the promotion loop of each GEMM costs, for the configs that the model ranks first.

    python -m benchmarks.blackwell_static.promotion --out docs/results/blackwell-ranked.json
    python -m benchmarks.blackwell_static.promotion --before SOURCES --out OUT
    python -m benchmarks.blackwell_static.promotion --second-n --out docs/results/blackwell-second-n.json

The second one also has what it cost before a change: SOURCES is the ``solution`` folder of another commit that builds
kernels one by one. The third compares, in the swapped GEMMs of these configs, the loop of a full tile with that of a
tile of few rows (``narrow``). Per K block:
instructions, loads from tensor memory, moves, the places of the last load and of the arrival that gives the accumulator
back (from the SASS), the sum of stall counts that the compiler put into them, and by arithmetic the cycles that each
unit is busy. No GPU; a quarter of a minute of a core for each build.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.blackwell_static.sample import PACKAGE, TARGET, compiled, main_definition, stage
from benchmarks.blackwell_static.sass import Instruction, instructions, kernels_below
from search_spaces.moe_fp8_cute.model_gemm import blackwell_block
from search_spaces.moe_fp8_cute.solution.plans import launches
from search_spaces.moe_fp8_cute.space import FAMILY
from search_spaces.space import SearchSpace
from workers.devices.hardware import hardware_of

FORECAST = Path("docs/results/b200-forecast.json")
OF_EACH_REGIME = {"0-16": 2, "17-256": 2, "257-2048": 2, "2049+": 4}
"""Ten: promotion decides most where experts have many rows."""
ROWS = ("full", "few")
"""Tiles of all their rows, and of at most ``narrow``."""


def loops_of(text: str, around: str = "LDTM") -> list[list[Instruction]]:
    """The loops around loads from tensor memory, the longest first; ``text`` has the encodings (``nvdisasm -c -hex``).

    There is one, and another one where tiles of few rows have an N of their own.

    Args:
        text: SASS of a kernel.
        around: Beginning of the opcode, where the loops are around another one.
    """
    code, at = instructions(text)
    loads = [n for n, (opcode, _, _) in enumerate(code) if opcode.startswith(around)]
    found: list[list[Instruction]] = []
    while loads:
        for n in range(loads[-1], len(code)):
            target = re.search(r"L_x_\d+", code[n][1])
            if code[n][0].startswith("BRA") and target and at.get(target[0], n) <= loads[-1]:
                found.append(code[at[target[0]] : n + 1])
                loads = [load for load in loads if load < at[target[0]]]
                break
        else:
            raise ValueError(f"no loop around {around}")
    return sorted(found, key=len, reverse=True)


def figures(loop: list[Instruction]) -> dict[str, int]:
    """Counts of a promotion loop; places are instructions from its top."""
    opcodes = [opcode for opcode, _, _ in loop]
    loads = [n for n, opcode in enumerate(opcodes) if opcode.startswith("LDTM")]
    arrivals = [n for n, opcode in enumerate(opcodes) if "ARRIVE" in opcode and n > loads[-1]]
    return {
        "instructions": len(loop),
        "loads": len(loads),
        "moves": sum("MOV" in opcode and not opcode.startswith("U") for opcode in opcodes),
        "packed_fma": sum(opcode.startswith("FFMA2") for opcode in opcodes),
        "local": sum(opcode.startswith(("LDL", "STL")) for opcode in opcodes),
        "last_load": loads[-1],
        "handed_back": arrivals[0] if arrivals else -1,
        "stall_cycles": sum(control >> 41 & 15 for _, _, control in loop),
    }


def kernels_of(package: Path, config: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    """(launch, SASS with encodings, spilled bytes) of each GEMM of a config, built from the sources in ``package``."""
    name = f"promotion_{package.parent.name}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_loader(name, loader=None, is_package=True)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        sys.modules[name].__path__ = [str(package)]
    build = importlib.import_module(f"{name}.build")
    with tempfile.TemporaryDirectory() as scratch:
        found = compiled(build, config, Path(scratch))
        code = kernels_below(Path(scratch), "-hex")
    for kernel, text in code.items():
        launch = re.match(r"(moe_gemm_[12](?:_many)?)_\d", kernel)
        if launch:
            spilled = next(f["spill_bytes"] for n, f in found.items() if re.match(rf"{launch[1]}_\d", n))
            yield launch[1], text, spilled


def gemms(package: Path, config: Mapping[str, Any]) -> Iterator[tuple[str, list[dict[str, int]]]]:
    """(launch, figures of its loops) of each GEMM of a config."""
    for launch, text, spilled in kernels_of(package, config):
        yield launch, [figures(loop) | {"spill_bytes": spilled} for loop in loops_of(text)]


def configs() -> Iterator[tuple[str, int, dict[str, Any]]]:
    """(regime, rank in it, changes of the default)."""
    ranked = json.loads(FORECAST.read_text())["ten_best"]
    for regime, count in OF_EACH_REGIME.items():
        for rank, found in enumerate(ranked[regime][:count]):
            yield regime, rank + 1, found["changes"]


def cycles(plan: Any, rows: int) -> dict[str, float]:
    """Cycles of each unit per K block of a tile of which ``rows`` rows are multiplied, for one CTA."""
    hardware = hardware_of("B200")
    assert hardware is not None
    b = blackwell_block(plan, rows, hardware)
    found = {"tensor": b.tensor, "smem": b.smem, "tmem": b.tmem, "fma": b.fma}
    return {name: round(value, 1) for name, value in found.items()}


def table(records: list[dict[str, Any]]) -> str:
    """Markdown: one line for each kernel that differs from those before, with what was before, if known, and is now."""
    head = (
        "config",
        "kernel",
        "cycles",
        "cap",
        "instructions",
        "loads",
        "moves",
        "handed back at",
        "stalls",
        "spilled",
    )
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    seen: set[str] = set()
    for r in records:
        made = [r[when] for when in ("before", "now") if when in r]
        kernel = str((r["launch"], r["cycles"], made))
        if kernel in seen:
            continue
        seen.add(kernel)
        busy = ", ".join(f"{r['cycles'][unit]:.0f}" for unit in ("tensor", "smem", "tmem", "fma"))
        keys = ("instructions", "loads", "moves", "handed_back", "stall_cycles", "spill_bytes")
        cells = [" to ".join(str(one[key]) for one in made) for key in keys]
        names = [f"{r['regime']}, {r['rank']}", r["launch"].removeprefix("moe_gemm_").replace("_", " ")]
        lines.append("| " + " | ".join([*names, f"{busy}, {r['issue']}", f"{r['tensor_cap']:.0%}", *cells]) + " |")
    return "\n".join(lines)


def second_n(package: Path, space: SearchSpace) -> Iterator[dict[str, Any]]:
    """Per swapped GEMM of the configs and per smaller N that it can have: the loop of a full tile, and of few rows."""
    seen: set[Any] = set()
    smaller = next(p for p in space.parameters if p.name == "narrow").values[1:]
    for regime, rank, changes in configs():
        for narrow in smaller:
            config = {**space.default, **changes, "narrow": narrow}
            named = {name: plan for name, plan in launches(config, space.sizes) if plan.narrow}
            fresh = {name: plan for name, plan in named.items() if replace(plan, stages=0) not in seen}
            if space.violation(config) is not None or not fresh:
                continue
            seen |= {replace(plan, stages=0) for plan in fresh.values()}
            made = dict(gemms(package, config))
            for launch, plan in fresh.items():
                full, few = made[launch]
                record = {"regime": regime, "rank": rank, "launch": launch, "changes": changes, "narrow": narrow}
                record |= {"tile_t": plan.tile_t, "mma_shape": plan.mma_shape, "full": full, "few": few}
                yield record | {"cycles": {"full": cycles(plan, plan.tile_t), "few": cycles(plan, narrow)}}


def second_n_table(records: list[dict[str, Any]]) -> str:
    """Markdown: one line for each GEMM and N."""
    head = ("config", "kernel", "N", "cycles", "instructions", "loads", "packed FMAs", "stalls")
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    seen: set[str] = set()
    for r in records:
        loops = str((r["launch"], r["narrow"], r["cycles"], r["full"], r["few"]))
        if loops in seen:
            continue
        seen.add(loops)
        busy = [
            ", ".join(f"{r['cycles'][rows][unit]:.0f}" for unit in ("tensor", "smem", "tmem", "fma")) for rows in ROWS
        ]
        keys = ("instructions", "loads", "packed_fma", "stall_cycles")
        cells = [" and ".join(busy), *(f"{r['full'][key]} and {r['few'][key]}" for key in keys)]
        names = [f"{r['regime']}, {r['rank']}", r["launch"].removeprefix("moe_gemm_").replace("_", " ")]
        lines.append("| " + " | ".join([*names, f"{r['tile_t']} and {r['narrow']}", *cells]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path, help="solution folder of the commit to compare with")
    parser.add_argument("--second-n", action="store_true", help="loops of full tiles and of tiles of few rows instead")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.before is not None and arguments.second_n:
        parser.error("--before or --second-n, not both")
    space = FAMILY.space(main_definition(), TARGET)
    records: list[dict[str, Any]] = []
    if arguments.second_n:
        with tempfile.TemporaryDirectory() as root:
            stage(space, Path(root) / "now")
            for record in second_n(Path(root) / "now" / PACKAGE, space):
                records.append(record)
                print(json.dumps(record), file=sys.stderr)
        arguments.out.write_text(json.dumps({"target": TARGET, "gemms": records}, indent=1) + "\n")
        print(second_n_table(records))
        return
    with tempfile.TemporaryDirectory() as root:
        times = ("now",) if arguments.before is None else ("before", "now")
        for when in times:
            stage(space, Path(root) / when)
        for path in arguments.before.glob("*.py") if arguments.before else ():
            (Path(root) / "before" / PACKAGE / path.name).write_text(path.read_text())
        for regime, rank, changes in configs():
            config = {**space.default, **changes}
            plans = dict(launches(config, space.sizes))
            both = {when: dict(gemms(Path(root) / when / PACKAGE, config)) for when in times}
            made = {when: {launch: loops[0] for launch, loops in found.items()} for when, found in both.items()}
            for launch, plan in plans.items():
                busy = cycles(plan, plan.tile_t)
                slowest = max(busy, key=lambda name: busy[name])
                record = {"regime": regime, "rank": rank, "launch": launch, "changes": changes, "cycles": busy}
                record |= {"bound": slowest, "tensor_cap": round(busy["tensor"] / busy[slowest], 3)}
                record |= {"in_flight_bytes": plan.stages * plan.stage_bytes * plan.ctas_per_sm}
                record |= {when: made[when][launch] for when in made}
                # A scheduler issues one instruction a cycle, and has one warp of each promotion warpgroup.
                records.append(record | {"issue": record["now"]["instructions"] * plan.groups})
                print(json.dumps(records[-1]), file=sys.stderr)
            arguments.out.write_text(json.dumps({"target": TARGET, "gemms": records}, indent=1) + "\n")
    print(table(records))


if __name__ == "__main__":
    main()
