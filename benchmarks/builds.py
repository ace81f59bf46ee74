"""What builds cost: the configs of a recorded sweep, in its order, built by the builder, cache empty at first.

    python -m benchmarks.builds DATABASE --trees . ../other --variants 60 --out RESULT.json

Each tree is a checkout of the project with a builder and a cache of its own; the trees take turns, variant by variant.
CPU seconds are those of the builder's sandbox and of what it starts. No GPU is needed. Configs that a tree's space
calls invalid are left out in all of them.

Needs psutil and, in every tree, what building moe_fp8_cute needs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.search_physics.recorded import opened

WORKER = """
import json, os, sys, tempfile, time
import psutil
from benchmarks.packaged_dataset.make import moe_definition
from search_spaces.registry import space_for
from workers.build.builder import VariantBuilder
from workers.records import Variant

target = sys.argv[1]
definition = moe_definition()
space = space_for(definition, target, "moe_fp8_cute")
builder = VariantBuilder(definition, target, sys.argv[2], imports=("cutlass",))
builder.start()


def spent():
    found = builder.processes()["child"]
    if found is None or not psutil.pid_exists(found):
        return 0.0
    times = [p.cpu_times() for p in (psutil.Process(found), *psutil.Process(found).children(recursive=True))]
    return sum(t.user + t.system + t.children_user + t.children_system for t in times)


for line in sys.stdin:
    config = {**space.default, **json.loads(line)}
    if space.violation(config) is not None:
        print(json.dumps({"status": "INVALID"}), flush=True)
        continue
    variant = Variant("v", definition["name"], space.variant_sources(config), space.entry_point, space.language, target)
    pid, before, began = builder.processes()["child"], spent(), time.perf_counter()
    built = builder.build(variant)
    wall = time.perf_counter() - began
    cpu = spent() - (before if builder.processes()["child"] == pid else 0.0)
    print(json.dumps({"status": str(built.status), "cpu_s": cpu, "wall_s": wall, "log": built.log[-200:]}), flush=True)
builder.close()
"""


def recorded_configs(database: Path) -> Iterator[dict[str, Any]]:
    """The configs of a sweep's database (SQLite, also gzipped), each once, in the order of the trials."""
    query = "SELECT v.config FROM trial t JOIN variant v ON v.id = t.variant_id GROUP BY v.id ORDER BY min(t.number)"
    with opened(database) as connection:
        yield from (json.loads(row[0]) for row in connection.execute(query).fetchall())


def build_in_turns(trees: list[Path], configs: list[dict[str, Any]], target: str) -> list[list[dict[str, Any]]]:
    """For each config what each tree made of it."""
    with tempfile.TemporaryDirectory() as scratch:
        workers = []
        for i, tree in enumerate(trees):
            command = [str(tree / ".venv/bin/python"), "-c", WORKER, target, f"{scratch}/cache{i}"]
            if not (tree / ".venv").exists():
                command[0] = sys.executable
            environment = {**os.environ, "PYTHONPATH": str(tree), "CUDA_VISIBLE_DEVICES": ""}
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            workers.append(subprocess.Popen(command, cwd=tree, env=environment, **pipes))
        rows = []
        for i, config in enumerate(configs):
            row: list[dict[str, Any]] = [{}] * len(workers)
            for k in range(len(workers)):
                at = (i + k) % len(workers)
                print(json.dumps(config), file=workers[at].stdin, flush=True)
                row[at] = json.loads(workers[at].stdout.readline())
            rows.append(row)
            print(i, [(found["status"], round(found.get("cpu_s", 0), 2)) for found in row], file=sys.stderr, flush=True)
        for worker in workers:
            worker.stdin.close()
            worker.wait()
        return rows


def summary(rows: list[list[dict[str, Any]]], trees: list[str]) -> dict[str, Any]:
    """CPU and wall seconds a variant for each tree, and the verdicts on which they differ."""
    valid = [row for row in rows if all(found["status"] != "INVALID" for found in row)]
    result: dict[str, Any] = {"variants": len(valid), "trees": {}}
    for i, name in enumerate(trees):
        cpu = [row[i]["cpu_s"] for row in valid]
        result["trees"][name] = {
            "cpu_s_mean": round(statistics.fmean(cpu), 3),
            "cpu_s_median": round(statistics.median(cpu), 3),
            "cpu_s_last_half_mean": round(statistics.fmean(cpu[len(cpu) // 2 :]), 3),
            "wall_s_mean": round(statistics.fmean(row[i]["wall_s"] for row in valid), 3),
            "statuses": {s: sum(row[i]["status"] == s for row in valid) for s in {row[i]["status"] for row in valid}},
        }
    result["verdicts_differ"] = sum(len({found["status"] for found in row}) > 1 for row in valid)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database", type=Path)
    parser.add_argument("--trees", type=Path, nargs="+", default=[Path.cwd()])
    parser.add_argument("--target", default="sm_90a")
    parser.add_argument("--variants", type=int, default=60)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    configs = list(recorded_configs(args.database))[: args.variants]
    rows = build_in_turns([tree.resolve() for tree in args.trees], configs, args.target)
    result = summary(rows, [tree.name or str(tree) for tree in (t.resolve() for t in args.trees)])
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result | {"target": args.target, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
