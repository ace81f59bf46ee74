"""The table for docs/kernels.md, from the results of compiled configs."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

Result = dict[str, Any]


def summary(results: list[Result]) -> dict[str, Any]:
    """Totals over all configs."""
    gemms = [g for r in results for g in r["gemms"]]
    return {
        "configs": len(results),
        "status": dict(Counter(r["status"] for r in results)),
        "cpu_s": round(sum(r["cpu_s"] for r in results), 1),
        "gemms": len(gemms),
        "gemms_that_spill": sum(g["spill_bytes"] > 0 for g in gemms),
        "largest_spill_bytes": max((g["spill_bytes"] for g in gemms), default=0),
        "gemms_with_local_memory_in_a_main_loop": sum(g["local_in_main_loops"] > 0 for g in gemms),
    }


def _kind(config: dict[str, Any], launch: str) -> tuple[int, str, int]:
    """(GEMM, operands, MMA rows) of a launch."""
    i = int(launch.removeprefix("moe_gemm_")[0])
    if launch.endswith("_many"):
        return i, "tokens as M, many rows", config["many_mma_m"]
    return i, "swapped" if config[f"swap_{i}"] else "tokens as M", config[f"mma_m_{i}"]


def _span(values: list[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _opcodes(gemms: list[Result], *words: str) -> str:
    """Smallest and largest number of instructions whose opcode has all the words."""
    return _span([sum(n for o, n in g["sass"].items() if all(w in o for w in words)) for g in gemms])


def table(results: list[Result]) -> str:
    """One line per GEMM, operand order and MMA height."""
    groups: dict[tuple[int, str, int], list[Result]] = defaultdict(list)
    for result in results:
        for gemm in result["gemms"]:
            groups[_kind(result["config"], gemm["launch"])].append(gemm)
    head = (
        "GEMM, operands, MMA rows | GEMMs | registers at launch | spilled bytes | in main loops | shared memory (bytes)"
    )
    head += " | TMEM columns | stages | UTCQMMA (2CTA) | UTMALDG (multicast, gather4) | LDTM"
    lines = [f"| {head} |", "|" + "---|" * (head.count("|") + 1)]
    for (i, operands, m), gemms in sorted(groups.items()):
        cells = [
            f"{i}, {operands}, {m}",
            str(len(gemms)),
            _span([g["registers"] for g in gemms]),
            _span([g["spill_bytes"] for g in gemms]),
            _span([g["local_in_main_loops"] for g in gemms]),
            _span([g["smem_bytes"] for g in gemms]),
            _span([g["tmem_columns"] for g in gemms]),
            _span([g["stages"] for g in gemms]),
            f"{_opcodes(gemms, 'UTCQMMA')} ({_opcodes(gemms, 'UTCQMMA', '2CTA')})",
            f"{_opcodes(gemms, 'UTMALDG')} ({_opcodes(gemms, 'UTMALDG', 'MULTICAST')}, "
            f"{_opcodes(gemms, 'UTMALDG', 'GATHER4')})",
            _opcodes(gemms, "LDTM"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
