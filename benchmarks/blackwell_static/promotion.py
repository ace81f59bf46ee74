"""What the promotion loop of each GEMM costs, before and after a change, for the configs that the model ranks first.

    python -m benchmarks.blackwell_static.promotion --before SOURCES --out docs/results/blackwell-promotion.json

SOURCES is the ``solution`` folder of another commit. Per K block: instructions, loads from tensor memory, moves, the
places of the last load and of the arrival that gives the accumulator back (from the SASS), the sum of stall counts that
the compiler put into them, and by arithmetic the cycles that each unit is busy. No GPU; a quarter of a minute of a core
for each build.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.blackwell_static.sample import PACKAGE, TARGET, main_definition, stage
from benchmarks.blackwell_static.sass import INSTRUCTION, LABEL, kernels
from search_spaces.moe_fp8_cute.model_gemm import blackwell_block
from search_spaces.moe_fp8_cute.solution.plans import launches
from search_spaces.moe_fp8_cute.space import FAMILY
from workers.devices.hardware import hardware_of

FORECAST = Path("docs/results/b200-forecast.json")
OF_EACH_REGIME = {"0-16": 2, "17-256": 2, "257-2048": 2, "2049+": 4}
"""Ten: promotion decides most where experts have many rows."""
_CONTROL = re.compile(r"^\s*/\* 0x([0-9a-f]{16}) \*/\s*$")

Instruction = tuple[str, str, int]
"""Opcode, operands, stall cycles."""


def loop_of(text: str) -> list[Instruction]:
    """The loop around the loads from tensor memory; ``text`` has the encodings (``nvdisasm -c -hex``)."""
    code: list[Instruction] = []
    at: dict[str, int] = {}
    for line in text.splitlines():
        if label := LABEL.match(line):
            at[label[1]] = len(code)
        elif found := INSTRUCTION.search(line):
            code.append((found[2], found[3], 0))
        elif (control := _CONTROL.match(line)) and code:
            code[-1] = (*code[-1][:2], int(control[1], 16) >> 41 & 15)
    loads = [n for n, (opcode, _, _) in enumerate(code) if opcode.startswith("LDTM")]
    for n in range(loads[-1], len(code)):
        target = re.search(r"L_x_\d+", code[n][1])
        if code[n][0].startswith("BRA") and target and at.get(target[0], n) <= loads[0]:
            return code[at[target[0]] : n + 1]
    raise ValueError("no loop around the loads from tensor memory")


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
        "stall_cycles": sum(stall for _, _, stall in loop),
    }


def gemms(package: Path, config: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, int]]]:
    """(launch, figures) of each GEMM of a config, built from the staged sources in ``package``'s folder."""
    name = f"promotion_{package.parent.name}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_loader(name, loader=None, is_package=True)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        sys.modules[name].__path__ = [str(package)]
    build = importlib.import_module(f"{name}.build")
    with tempfile.TemporaryDirectory() as scratch:
        found = build.compile_config("config", dict(config), Path(scratch), keep=True)
        code = kernels(Path(scratch) / "config.cubin", "-hex")
    for kernel, text in code.items():
        launch = re.match(r"(moe_gemm_[12](?:_many)?)_\d", kernel)
        if launch:
            spilled = next(f["spill_bytes"] for n, f in found.items() if re.match(rf"{launch[1]}_\d", n))
            yield launch[1], figures(loop_of(text)) | {"spill_bytes": spilled}


def configs() -> Iterator[tuple[str, int, dict[str, Any]]]:
    """(regime, rank in it, changes of the default)."""
    ranked = json.loads(FORECAST.read_text())["ten_best"]
    for regime, count in OF_EACH_REGIME.items():
        for rank, found in enumerate(ranked[regime][:count]):
            yield regime, rank + 1, found["changes"]


def cycles(plan: Any) -> dict[str, float]:
    """Cycles of each unit per K block of a full tile, for one CTA."""
    hardware = hardware_of("B200")
    assert hardware is not None
    b = blackwell_block(plan, plan.tile_t, hardware)
    found = {"tensor": b.tensor, "smem": b.smem, "tmem": b.tmem, "fma": b.fma}
    return {name: round(value, 1) for name, value in found.items()}


def table(records: list[dict[str, Any]]) -> str:
    """Markdown: one line for each kernel that differs from those before, with what was before and is now."""
    head = ("config", "kernel", "cycles", "cap", "instructions", "loads", "moves", "handed back at", "stalls")
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    seen: set[str] = set()
    for r in records:
        plan = (r["launch"], str(r["cycles"]), str(r["after"]), str(r["before"]))
        if str(plan) in seen:
            continue
        seen.add(str(plan))
        busy = ", ".join(f"{r['cycles'][unit]:.0f}" for unit in ("tensor", "smem", "tmem", "fma"))
        keys = ("instructions", "loads", "moves", "handed_back", "stall_cycles")
        cells = [f"{r['before'][key]} to {r['after'][key]}" for key in keys]
        names = [f"{r['regime']}, {r['rank']}", r["launch"].removeprefix("moe_gemm_").replace("_", " ")]
        lines.append("| " + " | ".join([*names, f"{busy}, {r['issue']}", f"{r['tensor_cap']:.0%}", *cells]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path, required=True, help="solution folder of the commit to compare with")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    space = FAMILY.space(main_definition(), TARGET)
    records = []
    with tempfile.TemporaryDirectory() as root:
        for when in ("before", "after"):
            stage(space, Path(root) / when)
        for path in arguments.before.glob("*.py"):
            (Path(root) / "before" / PACKAGE / path.name).write_text(path.read_text())
        for regime, rank, changes in configs():
            config = {**space.default, **changes}
            plans = dict(launches(config, space.sizes))
            made = {when: dict(gemms(Path(root) / when / PACKAGE, config)) for when in ("before", "after")}
            for launch, plan in plans.items():
                busy = cycles(plan)
                slowest = max(busy, key=lambda name: busy[name])
                record = {"regime": regime, "rank": rank, "launch": launch, "changes": changes, "cycles": busy}
                record |= {"bound": slowest, "tensor_cap": round(busy["tensor"] / busy[slowest], 3)}
                record |= {"in_flight_bytes": plan.stages * plan.stage_bytes * plan.ctas_per_sm}
                record |= {when: made[when][launch] for when in made}
                # A scheduler issues one instruction a cycle, and has one warp of each promotion warpgroup.
                records.append(record | {"issue": record["after"]["instructions"] * plan.groups})
                print(json.dumps(records[-1]), file=sys.stderr)
            arguments.out.write_text(json.dumps({"target": TARGET, "gemms": records}, indent=1) + "\n")
    print(table(records))


if __name__ == "__main__":
    main()
