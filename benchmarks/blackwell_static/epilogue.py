"""What a tile's epilogue costs beside the next tile's MMAs, for the configs that the model ranks first: a forecast.

    python -m benchmarks.blackwell_static.epilogue --out docs/results/blackwell-epilogue.json

While promotion warps are busy with an epilogue, the MMAs go on until every accumulator waits to be promoted, and loads
until every stage is full; what is longer than that is lost. Of each GEMM the kernel is compiled, and the SASS between
the end of a tile's promotion and the start of the next is walked: an instruction issues when the scoreboards that it
waits for are free and the stalls of the one before are over. A K block of promotion is walked alike. Then a tile takes
what loads, MMAs and promotion need that wait for one another. ``forms`` has the same cycles of every kind of epilogue:
the model's constants (``model_sm100.py``) come from them. No GPU; a quarter of a minute of a core for each config.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.blackwell_static.promotion import configs, cycles, kernels_of
from benchmarks.blackwell_static.sample import PACKAGE, TARGET, main_definition, stage
from benchmarks.blackwell_static.sass import Instruction, instructions
from benchmarks.search_physics.recorded import ROWS
from search_spaces.moe_fp8.reading import POWER_OF_TWO
from search_spaces.moe_fp8_cute.model_gemm import tiles_of
from search_spaces.moe_fp8_cute.solution.budget_sm100 import TMEM_COLUMNS
from search_spaces.moe_fp8_cute.solution.plans import launches
from search_spaces.moe_fp8_cute.space import FAMILY
from search_spaces.moe_fp8_cute.space_sm100 import PAIRS
from search_spaces.space import SearchSpace
from workers.devices.hardware import hardware_of

LATENCY = {"LDG": 350, "ATOM": 350, "LDTM": 40, "LDS": 32, "LDC": 30, "SHFL": 26, "SYNCS": 24, "MUFU": 24, "CREDUX": 24}
"""Cycles from issue to result, by the first letters of an opcode: estimates, those of Hopper where they are known."""
OTHER_LATENCY, READ_LATENCY = 14, 20
"""Of other instructions; until a memory instruction has read its registers."""
ROWS_OF = {"0-16": 25, "17-256": 69, "257-2048": 722, "2049+": 19_382}
"""Rows of the workload that stands for a regime: its largest."""
HANDED_CYCLES = 150
"""Of a hand-over through tensor memory: 64 registers written and waited for, one arrival."""
GHZ = 1.85
"""Of an SM under load."""
_ADDED, _FEW = {"combine": "atomic_bf16"}, {"swap_1": True, "swap_2": True, "tile_w_1": 128, "tile_w_2": 128}
_SPLIT = {**_ADDED, "split_rows": 8, **{"swap_1": True, "swap_2": True, "tile_t_1": 16, "tile_t_2": 16}}
_WHOLE = {"split_rows": 8, "many_mma_m": 256, "many_cluster_w": 2, "stages_1": 3, "stages_2": 3}
_SCALED = {"scaled_1": True, "scaled_2": True, "acc_stages_1": 1, "acc_stages_2": 1}


def _tokens(tile_t: int, **others: Any) -> dict[str, Any]:
    return {"tile_t_1": tile_t, "tile_t_2": tile_t, **others}


FORMS: tuple[dict[str, Any], ...] = (
    PAIRS,
    {**PAIRS, **_ADDED},
    {**PAIRS, "handover": True},
    {**PAIRS, **_ADDED, "handover": True},
    {**PAIRS, **_ADDED, "requant": "kernel", "tile_w_2": 128},
    {**PAIRS, "combine": "atomic_f32"},
    {**PAIRS, **_ADDED, **_SCALED},
    {**PAIRS, **_SCALED},
    {},
    {**_FEW, **_tokens(8), "mma_m_1": 64, "mma_m_2": 64, "cluster_w_1": 2, "combine": "atomic_f32"},
    {**_FEW, **_tokens(8), "mma_m_1": 64, "mma_m_2": 64, "cluster_w_1": 2, **_ADDED},
    {**_FEW, **_tokens(32), "requant": "kernel"},
    {**_FEW, **_tokens(64), "cluster_w_1": 2},
    {**_FEW, **_tokens(128), "mma_m_1": 256, "cluster_w_1": 2, **_ADDED},
    {**_FEW, **_tokens(64), "tile_w_1": 256, "requant": "kernel", "stages_1": 3, **_ADDED},
    {**_FEW, **_tokens(64), "tile_w_1": 256, "tile_w_2": 256, "stages_1": 3, "stages_2": 3},
    {**_FEW, **_tokens(64), "tile_w_1": 256, "tile_w_2": 256, "stages_1": 2, "stages_2": 2, "combine": "atomic_f32"},
    {**_FEW, **_tokens(128), "tile_w_1": 256, "stages_1": 3, "stages_2": 4, **_ADDED},
    {**_SPLIT, **_WHOLE},
    {**_SPLIT, **_WHOLE, "fallback": True},
)
"""Changes of the default that together have every kind of epilogue, small and large."""


def parts(text: str) -> tuple[list[Instruction], list[Instruction]]:
    """(K block of promotion, everything between two tiles) of a promotion warp.

    The latter goes from the end of the loop over K blocks to the end of the loop over tiles, and on from its top. With
    scaled MMAs, which promote no K block, it is all of the loop over tiles.
    """
    code, at = instructions(text)
    loads = [n for n, (opcode, _, _) in enumerate(code) if opcode.startswith("LDTM")]
    leaves = (n for n in range(loads[-1], len(code)) if re.match(r"EXIT|BAR.SYNC\S* 0x0", f"{code[n][0]}{code[n][1]}"))
    end = next(leaves)
    loops = []
    for n in range(loads[-1], end):
        target = re.search(r"L_x_\d+", code[n][1])
        if code[n][0].startswith("BRA") and target and at[target[0]] <= loads[0]:
            loops.append((at[target[0]], n))
    *inner, (top, bottom) = sorted(loops, key=lambda loop: loop[1] - loop[0])
    if not inner:
        return [], code[top : bottom + 1]
    first, last = inner[-1]
    return code[first : last + 1], code[last + 1 : bottom + 1] + code[top:first]


def walked(code: Sequence[Instruction]) -> tuple[int, int]:
    """(cycles, place in cycles of the last arrival) of instructions one behind the other; no branch is taken."""
    now, arrived = 0, 0
    free = [0] * 6
    for opcode, _, control in code:
        now = max([now, *(free[b] for b in range(6) if control >> 52 + b & 1)])
        latency = next((cycles for name, cycles in LATENCY.items() if opcode.startswith(name)), OTHER_LATENCY)
        for barrier, wait in ((control >> 46 & 7, latency), (control >> 49 & 7, READ_LATENCY)):
            if barrier != 7:
                free[barrier] = max(free[barrier], now + wait)
        if "ARRIVE" in opcode:
            arrived = now
        now += max(1, control >> 41 & 15)
    return now, arrived


@dataclass(frozen=True)
class Tile:
    """Cycles of one K block in each part of a GEMM.

    Args:
        blocks: K blocks of a tile.
        slots: K blocks that shared memory holds.
        accumulators: K blocks that tensor memory holds.
        load: The memory brings a K block.
        mma: Tensor cores or shared memory port, whichever takes longer.
        handed_back: From the start of promotion to the arrival that gives the accumulator back.
        promotion: A K block of promotion.
        between: Between two tiles of a promotion warp.
    """

    blocks: int
    slots: int
    accumulators: int
    load: float
    mma: float
    handed_back: float
    promotion: float
    between: float

    def period(self, tiles: int = 40) -> float:
        """Cycles from one tile's last MMA to the next one's."""
        n = self.blocks * tiles
        loaded, done, drained = [0.0] * n, [0.0] * n, [0.0] * n
        promoted = 0.0
        for i in range(n):
            room = done[i - self.slots] if i >= self.slots else 0.0
            loaded[i] = max(loaded[i - 1] if i else 0.0, room) + self.load
            empty = drained[i - self.accumulators] if i >= self.accumulators else 0.0
            done[i] = max(done[i - 1] if i else 0.0, loaded[i], empty) + self.mma
            start = max(promoted + (self.between if i and i % self.blocks == 0 else 0.0), done[i])
            drained[i], promoted = start + self.handed_back, start + self.promotion
        half = tiles // 2 * self.blocks
        return (done[n - 1] - done[half - 1]) / (tiles - tiles // 2)


def tile_of(plan: Any, regime: str, text: str) -> Tile:
    """The parts of a GEMM; resources that two CTAs of an SM share are halved."""
    hardware = hardware_of("B200")
    assert hardware is not None
    block, between = parts(text)
    promotion, handed_back = walked(block)
    rows = next(tuple(r) for r in ROWS.values() if sum(r) == ROWS_OF[regime])
    mine = (plan.tile_t, plan.tile_t, plan.narrow, plan.cluster_t)
    tiles = tiles_of(rows, plan.above, plan.upto, *mine)
    if not tiles.count:
        # No expert of this workload has so few rows: as if all had.
        tiles = tiles_of(tuple(min(count, plan.upto) for count in rows), 0, 0, *mine)
    tile_bytes = (tiles.experts * plan.n + tiles.rows) * plan.k / (tiles.count * plan.cluster_t * plan.weight_tiles)
    busy, per_sm = cycles(plan, plan.tile_t), plan.ctas_per_sm
    bytes_per_cycle = hardware.hbm_bytes_per_us / hardware.sms / GHZ / 1000
    return Tile(
        blocks=plan.k_blocks,
        slots=plan.stages * plan.k_per_stage,
        accumulators=plan.acc_stages,
        load=tile_bytes / plan.split_k / plan.k_blocks / bytes_per_cycle * per_sm,
        mma=max(busy["tensor"], busy["smem"]) * per_sm,
        handed_back=handed_back,
        promotion=max(promotion, busy["fma"] * per_sm, busy["tmem"] * per_sm),
        # A scheduler has one warp of each promotion warpgroup, and issues one instruction a cycle.
        between=max(walked(between)[0], len(between) * plan.groups * per_sm),
    )


def record(plan: Any, tile: Tile) -> dict[str, Any]:
    """A tile as it is, and what would become of it."""
    columns = plan.acc_stages * plan.acc_columns + plan.subs * plan.width
    room = plan.ctas_per_sm * (1 << (columns - 1).bit_length()) <= TMEM_COLUMNS
    four = 4 * plan.acc_columns * plan.ctas_per_sm <= TMEM_COLUMNS
    found = {name: round(getattr(tile, name)) for name in ("load", "mma", "promotion", "between")}
    found |= {"tile_cycles": round(tile.period()), "room_for_sums": room}
    found["handed_cycles"] = round(replace(tile, between=HANDED_CYCLES).period())
    found["four_accumulators_cycles"] = round(replace(tile, accumulators=4).period()) if four else None
    return found


def records(package: Path, space: Any) -> Iterator[dict[str, Any]]:
    """Every GEMM of the ten configs that differs from those before, then with ``handover`` where it has a use.

    Of a kernel with a second N, that without it: a walk would pass through both loops and both epilogues.
    """
    seen: set[Any] = set()
    for regime, rank, changes in configs():
        for handover in (False, True):
            config = {**space.default, **changes, "handover": handover, "narrow": 0}
            named = {name: plan for name, plan in launches(config, space.sizes) if plan not in seen}
            if not named or space.violation(config) is not None:
                continue
            seen |= set(named.values())
            for launch, text, spilled in kernels_of(package, config):
                if plan := named.get(launch):
                    found = {"regime": regime, "rank": rank, "launch": launch, "handover": handover}
                    shape = {"tile_t": plan.tile_t, "tile_w": plan.tile_w, "pair": plan.pair, "smem": plan.smem_bytes}
                    yield found | shape | {"spill_bytes": spilled} | record(plan, tile_of(plan, regime, text))


def forms(package: Path, space: SearchSpace) -> Iterator[dict[str, Any]]:
    """Every GEMM of :data:`FORMS` that differs from those before: cycles of one CTA alone on its SM."""
    seen: set[Any] = set()
    for changes in FORMS:
        config = {**space.default, **changes}
        why = space.violation(config)
        if why is not None:
            raise ValueError(f"{changes}: {why}")
        named = {name: plan for name, plan in launches(config, space.sizes) if plan not in seen}
        seen |= set(named.values())
        for launch, text, _spilled in kernels_of(package, config):
            if plan := named.get(launch):
                block, between = parts(text)
                promotion, handed_back = walked(block)
                fields = ("swap", "out", "tile_t", "tile_w", "groups", "pair", "handover", "fallback", "scaled")
                found = {"launch": launch, "changes": changes} | {name: getattr(plan, name) for name in fields}
                found |= {"promotion": promotion, "handed_back": handed_back, "between": walked(between)[0]}
                yield found | {"instructions": len(between)}


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: one line for each GEMM that differs from those before."""
    head = ("config", "kernel", "tile", "load", "MMA", "promotion", "between", "tile takes", "sums handed over", "four")
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    seen: set[str] = set()
    for r in found:
        kernel = r["launch"].removeprefix("moe_gemm_").replace("_", " ") + (", handover" if r["handover"] else "")
        four = r["four_accumulators_cycles"]
        cells = [f"{r['tile_t']} x {r['tile_w']}{', pair' if r['pair'] else ''}"]
        cells += [str(r[name]) for name in ("load", "mma", "promotion", "between", "tile_cycles")]
        cells += [
            f"{r['handed_cycles']}{'' if r['room_for_sums'] else ' (no room)'}",
            "-" if four is None else str(four),
        ]
        if str((kernel, cells)) not in seen:
            seen.add(str((kernel, cells)))
            lines.append("| " + " | ".join([f"{r['regime']}, {r['rank']}", kernel, *cells]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    space = FAMILY.space(main_definition(), TARGET)
    promised = FAMILY.space({**main_definition(), "tags": [POWER_OF_TWO]}, TARGET)
    found = []
    with tempfile.TemporaryDirectory() as root:
        stage(space, Path(root) / "now")
        for one in records(Path(root) / "now" / PACKAGE, space):
            found.append(one)
            print(json.dumps(one), file=sys.stderr)
        every = list(forms(Path(root) / "now" / PACKAGE, promised))
    document = {"target": TARGET, "forecast": True, "gemms": found, "forms": every}
    arguments.out.write_text(json.dumps(document, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
