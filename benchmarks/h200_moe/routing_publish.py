"""Records of routing_run.py -> docs/results/routing.json and the table of routing.md.

    python benchmarks/h200_moe/routing_publish.py RECORDS --json docs/results/routing.json > table.md

Per size one config is chosen for all profiles, as a Solution must that only knows the number of tokens: the one with
the smallest geometric mean among those that are nowhere slower than the default. ``best_config_us`` is the fastest of
all configs at that point alone. Both are chosen from the samples that are shown, which flatters them a little.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

BASELINES = {"deepgemm_us": "baseline_deepgemm", "triton_us": "baseline_triton"}
NOISE = 1.01
"""A config counts as slower than the default from here on."""


def chosen(points: list[dict[str, Any]]) -> str:
    """The config of a size, from its points of all profiles."""
    names = set.intersection(*(set(p["times_us"]) for p in points)) - set(BASELINES.values())
    guarded = [n for n in names if all(p["times_us"][n] <= NOISE * p["times_us"]["default"] for p in points)]
    return min(guarded or names, key=lambda n: math.prod(p["times_us"][n] for p in points))


def rows(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per profile and size."""
    found = []
    for size in sorted({r["seq_len"] for r in records}):
        points = [r for r in records if r["seq_len"] == size]
        name = chosen(points)
        for p in points:
            ours = {n: us for n, us in p["times_us"].items() if n not in BASELINES.values()}
            best = min(ours, key=ours.__getitem__)
            row = {key: p[key] for key in ("profile", "seq_len", "rows", "active")}
            row |= {"floor_us": round(p["floor_us"], 1), "ours_us": ours[name]}
            row |= {key: p["times_us"].get(baseline) for key, baseline in BASELINES.items()}
            found.append(row | {"best_config_us": ours[best], "ours_config": name, "best_config": best})
    return found


def table(found: list[dict[str, Any]]) -> str:
    """The rows in Markdown, profile by profile."""
    head = (
        "| profile | tokens | rows | experts | floor | ours | DeepGEMM | Triton | best config | ours / best | config |"
    )
    lines = [head, "|" + "---|" * (head.count("|") - 1)]
    order = list(dict.fromkeys(row["profile"] for row in found))
    for row in sorted(found, key=lambda r: (order.index(r["profile"]), r["seq_len"])):
        times = [row[k] for k in ("floor_us", "ours_us", "deepgemm_us", "triton_us", "best_config_us")]
        cells = [row["profile"], f"{row['seq_len']:,}", f"{row['rows']:,}", str(row["active"])]
        cells += ["-" if us is None else f"{us:,.1f}" for us in times]
        cells += [f"{row['ours_us'] / row['best_config_us']:.3f}", row["ours_config"]]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = rows(json.loads(args.records.read_text()))
    if args.json:
        args.json.write_text("[\n" + ",\n".join(json.dumps(row) for row in found) + "\n]\n")
    print(table(found))


if __name__ == "__main__":
    main()
