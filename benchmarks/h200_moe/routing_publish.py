"""Records of routing_run.py -> docs/results/routing.json and the table of routing.md.

    python -m benchmarks.h200_moe.routing_publish RECORDS VARIANTS --json docs/results/routing.json > table.md

The dispatch table is what a sweep over these points would export: the product's own ranking with its guard in each
regime, and its bounds where neighbouring winners cross. It is chosen from the first half of the rounds, and so is
``best_config``, the fastest of all configs at a point alone; all figures are medians of the second half, so that
nobody is shown by the samples that chose it.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.sweeps.finals.crossings import find
from tuner.sweeps.finals.statistics import Guard, rank
from tuner.sweeps.regimes import split

BASELINES = {"deepgemm_us": "baseline_deepgemm", "triton_us": "baseline_triton"}
REGIMES = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Bounds before they are measured."""
WORST_FACTOR = 1.5
OLD_FORM = {"split_rows": 0, "narrow": 0}
"""What configs have in common that serve all experts by one form, as all did before 2026-11-29."""


@dataclass
class Row:
    """A row of the table: the largest size it serves, None for all, and why."""

    bound: int | None
    config: str
    why: str


class Points:
    """The records, as samples that choose and medians that are shown."""

    def __init__(self, records: list[dict[str, Any]], configs: dict[str, dict[str, Any]]) -> None:
        self.records = {f"{r['profile']} {r['seq_len']} {r['uuid']}": r for r in records}
        self.configs = configs
        self.choosing: dict[str, dict[str, list[float]]] = {}
        self.shown_us: dict[str, dict[str, float]] = {}
        for key, record in self.records.items():
            for name, rounds in record["samples_us"].items():
                half = len(rounds) // 2
                self.choosing.setdefault(key, {})[name] = list(itertools.chain(*rounds[:half]))
                self.shown_us.setdefault(key, {})[name] = round(statistics.median(itertools.chain(*rounds[half:])), 2)

    def table(self, allowed: list[str]) -> list[Row]:
        """The dispatch table from some of the configs."""
        sizes = {key: record["seq_len"] for key, record in self.records.items()}
        default = self.configs["default"]
        rows, regimes = [], split(sizes, REGIMES)
        for regime in regimes:
            everywhere = [n for n in allowed if all(n in self.choosing[key] for key in regime.workloads)]
            rounds = {n: {key: self.choosing[key][n] for key in regime.workloads} for n in everywhere}
            simple = {n: (sum(self.configs[n].get(p, v) != v for p, v in default.items()), n) for n in everywhere}
            found = rank(rounds, simple, "default", guard=Guard(WORST_FACTOR))
            rows.append(Row(regime.bound, found.winner, found.reason))
        for (lower, here), (upper, there) in itertools.pairwise(zip(rows, regimes, strict=True)):
            both = [
                k for k in (*here.workloads, *there.workloads) if {lower.config, upper.config} <= set(self.choosing[k])
            ]
            if lower.config != upper.config and {sizes[k] for k in both} & {sizes[k] for k in there.workloads}:
                sides = ({k: self.choosing[k][row.config] for k in both} for row in (lower, upper))
                assert lower.bound is not None
                lower.bound, _, why = find(*sides, sizes, lower.bound)
                lower.why += f"; bound: {why}"
        return rows

    def served(self, rows: list[Row], key: str) -> float | None:
        """Microseconds of the config that a table gives a point."""
        return self.shown_us[key].get(config_of(rows, self.records[key]["seq_len"]))


def config_of(rows: list[Row], size: int) -> str:
    """The config that a table gives a size."""
    return next(row.config for row in rows if row.bound is None or size <= row.bound)


def compared(points: Points, rows: list[Row]) -> list[dict[str, Any]]:
    """A record per point."""
    found = []
    for key, record in points.records.items():
        shown, choosing = points.shown_us[key], points.choosing[key]
        best = min((n for n in shown if n in points.configs), key=lambda n: statistics.median(choosing[n]))
        row = {name: record[name] for name in ("profile", "seq_len", "rows", "active")}
        row |= {"floor_us": round(record["floor_us"], 1), "ours_us": points.served(rows, key)}
        row |= {name: shown.get(baseline) for name, baseline in BASELINES.items()}
        row |= {"best_config_us": shown[best], "default_us": shown.get("default")}
        row |= {"ours_config": config_of(rows, record["seq_len"]), "best_config": best, "workload": record["uuid"]}
        found.append(row)
    order = list(dict.fromkeys(row["profile"] for row in found))
    return sorted(found, key=lambda row: (order.index(row["profile"]), row["seq_len"]))


def public_geomean(points: Points, rows: list[Row]) -> float:
    """Geometric mean over the public workloads, in microseconds."""
    times = {key: points.served(rows, key) for key, record in points.records.items() if record["uuid"]}
    missing = sorted(key for key, us in times.items() if us is None)
    if missing:
        raise ValueError(f"not measured with the table's config, so there is no mean over all: {', '.join(missing)}")
    return math.exp(statistics.fmean(math.log(us) for us in times.values() if us is not None))


def markdown(found: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    head = (
        "| profile | tokens | rows | experts | floor | ours | DeepGEMM | Triton | best config | ours / best | config |"
    )
    lines = [head, "|" + "---|" * (head.count("|") - 1)]
    for row in found:
        times = [row[k] for k in ("floor_us", "ours_us", "deepgemm_us", "triton_us", "best_config_us")]
        cells = [row["profile"], f"{row['seq_len']:,}", f"{row['rows']:,}", str(row["active"])]
        cells += ["-" if us is None else f"{us:,.1f}" for us in times]
        behind = "-" if row["ours_us"] is None else f"{row['ours_us'] / row['best_config_us']:.3f}"
        lines.append("| " + " | ".join([*cells, behind, row["ours_config"]]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path)
    parser.add_argument("variants", type=Path, help="the folder of the variants, for their configs")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    raw = args.records.read_bytes()
    records = json.loads(gzip.decompress(raw) if args.records.suffix == ".gz" else raw)
    paths = args.variants.glob("*/variant.json")
    points = Points(records, {path.parent.name: json.loads(path.read_text())["config"] for path in paths})
    rows = points.table(list(points.configs))
    old = [n for n, c in points.configs.items() if all(c[p] == v for p, v in OLD_FORM.items())]
    found = compared(points, rows)
    if args.json:
        args.json.write_text("[\n" + ",\n".join(json.dumps(row) for row in found) + "\n]\n")
    print("| up to | config | why |\n|---|---|---|")
    for row in rows:
        print(f"| {row.bound or 'all'} | {row.config} | {row.why} |")
    before, now = public_geomean(points, points.table(old)), public_geomean(points, rows)
    print(f"\npublic workloads: {before:.1f} us by configs of the old form, {now:.1f} us now\n")
    print(markdown(found))


if __name__ == "__main__":
    main()
