"""From the records of drive.py to the published table: one config per regime of token counts.

    python benchmarks/h200_moe/publish.py RECORDS.jsonl [...] --json docs/results/h200-moe.json [--copy-tb-s 3.0]

Writes one object per public workload (keys: drive.py's BEST_KEYS) and prints the rows of the table of
docs/results/h200-moe.md. The floor is an H200's; ``--copy-tb-s`` prints the table with that of a card
whose memory copies at another rate. A regime's config is the correct one with the smallest mean of median / floor over
the regime's workloads among those that were timed on all of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from drive import BEST_KEYS
from problems import MAIN


@dataclass(frozen=True)
class Regime:
    """Token counts that one config serves, and the target: median <= ``factor`` * floor + ``extra_us``."""

    low: int
    high: int
    factor: float
    extra_us: float

    def holds(self, tokens: int) -> bool:
        return self.low <= tokens <= self.high

    def target_us(self, floor_us: float) -> float:
        return self.factor * floor_us + self.extra_us


REGIMES = (
    Regime(1, 16, 1.0, 32.0),
    Regime(17, 80, 1.13, 0.0),
    Regime(81, 901, 1.20, 0.0),
    Regime(902, 1 << 30, 1.45, 0.0),
)


def read(paths: Iterable[Path]) -> list[dict]:
    """Results of correct, timed variants of the main definition."""
    lines = [line for path in paths for line in path.read_text().splitlines()]
    results = [json.loads(line) for line in lines]
    return [r for r in results if r["status"] == "PASSED" and r.get("times") and r["definition"] == MAIN.name]


def choose(results: list[dict], regime: Regime) -> list[dict]:
    """The figures of the regime's best config, by rising token count; empty if nothing was timed in the regime."""
    tables = [{t["seq_len"]: t for t in r["times"] if regime.holds(t["seq_len"])} for r in results]
    wanted = max((len(t) for t in tables), default=0)
    if not wanted:
        return []
    complete = [t for t in tables if len(t) == wanted]
    best = min(complete, key=lambda t: sum(f["median_us"] / f["floor_us"] for f in t.values()))
    return [best[tokens] for tokens in sorted(best)]


def row(figures: dict, regime: Regime, copy_tb_s: float | None = None) -> str:
    """One line of the Markdown table; with the recorded floor, or that of a card with another copy rate."""
    median, floor = figures["median_us"], figures["floor_us"]
    if copy_tb_s is not None:
        floor = MAIN.floor_us(figures["active_experts"], figures["rows"], copy_tb_s)
    target = regime.target_us(floor)
    verdict = "reached" if median <= target else f"missed by {median - target:.1f} us ({median / target - 1:.0%})"
    cells = [
        f"{figures['seq_len']:,}",
        f"{figures['rows']:,}",
        figures["active_experts"],
        f"{floor:.1f}",
        f"{median:.1f}",
    ]
    cells += [f"{median / floor:.3f} F", f"F + {median - floor:.1f}", f"{target:.1f}", verdict]
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path, nargs="+")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--copy-tb-s", type=float, help="copy rate of the card; an H200's by default")
    args = parser.parse_args()
    results = read(args.records)
    chosen = []
    for regime in REGIMES:
        for figures in choose(results, regime):
            chosen.append({key: figures[key] for key in BEST_KEYS})
            print(row(figures, regime, args.copy_tb_s))
    if args.json:
        args.json.write_text(json.dumps(chosen, indent=1) + "\n")


if __name__ == "__main__":
    main()
