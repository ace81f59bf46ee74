"""Records of routing_run.py -> docs/results/routing.json and the table of routing.md.

    python -m benchmarks.h200_moe.routing_publish VARIANTS --choosing FILE [FILE ...] --table table.json
    python -m benchmarks.h200_moe.routing_publish VARIANTS --choosing FILE [FILE ...] --shown FILE [FILE ...]
        [--ours NAME] [--beside NAME] --given TABLE_OR_SOLUTION --json routing.json

The dispatch table is what a sweep over these points would export: the product's own ranking with its guard in each
regime, and its bounds where neighbouring winners cross. It is chosen from the records of ``--choosing``, and so is
``best_config``, the fastest of all configs at a point alone. All figures are medians of those of ``--shown``, which
were measured afterwards, so that nobody is shown by the samples that chose it; there the Solution of the table runs
as one, under the name that ``--ours`` gives. Without ``--shown`` the first half of the rounds chooses and the
second is shown.

Records may be of several files, with points that are divided between cards; a point is in one of them only, since
samples of two cards do not compare. The Solution may also be what a sweep exported: ``--given`` is then its folder, and
the configs of its table have the names that VARIANTS give them, else ``sweep-N``.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import math
import runpy
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.sweeps.finals.crossings import find
from tuner.sweeps.finals.guard import Guard
from tuner.sweeps.finals.ranking import rank
from tuner.sweeps.regimes import DEFAULT_BOUNDS, split

BASELINES = {"deepgemm_us": "baseline_deepgemm", "triton_us": "baseline_triton"}
EXPORTED = "exported"
"""What the Solution of the table is called, where it was measured as one."""
WORST_FACTOR = 1.5


@dataclass
class Row:
    """A row of the table: the largest size it serves, None for all, and why."""

    bound: int | None
    config: str
    why: str


class Points:
    """The records, as samples that choose and medians that are shown."""

    def __init__(
        self,
        records: list[dict[str, Any]],
        configs: dict[str, dict[str, Any]],
        shown: list[dict[str, Any]] | None = None,
        bounds: Sequence[int] = DEFAULT_BOUNDS,
        ours: str = EXPORTED,
    ) -> None:
        self.records = {_key(r): r for r in records}
        self.configs, self.bounds, self.ours = configs, bounds, ours
        self.choosing: dict[str, dict[str, list[float]]] = {}
        self.shown_us: dict[str, dict[str, float]] = {}
        wanted = max(len(one) for r in records for rounds in r["samples_us"].values() for one in rounds)
        for key, record in self.records.items():
            for name, given in record["samples_us"].items():
                rounds = _filled(given, wanted)
                half = len(rounds) // 2 if shown is None else len(rounds)
                self.choosing.setdefault(key, {})[name] = list(itertools.chain(*rounds[:half]))
                if shown is None:
                    self.show(key, name, rounds[half:])
        for record in shown or ():
            for name, rounds in record["samples_us"].items():
                self.show(_key(record), name, rounds)

    def show(self, key: str, name: str, rounds: list[list[float]]) -> None:
        """Take the median of these rounds as the figure of a config at a point."""
        self.shown_us.setdefault(key, {})[name] = round(statistics.median(itertools.chain(*rounds)), 2)

    def table(self, allowed: list[str]) -> list[Row]:
        """The dispatch table from some of the configs."""
        sizes = {key: record["seq_len"] for key, record in self.records.items()}
        default = self.configs["default"]
        rows, regimes = [], split(sizes, self.bounds)
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
        """Microseconds of the Solution as one, else of the config that the table gives a point."""
        shown = self.shown_us[key]
        return shown.get(self.ours, shown.get(config_of(rows, self.records[key]["seq_len"])))


def _filled(rounds: list[list[float]], wanted: int) -> list[list[float]]:
    """Rounds of equal length, since variants are compared in pairs: the timer leaves out samples that were submitted
    late, and the median of the round stands for them."""
    everything = list(itertools.chain(*rounds))
    return [one + [statistics.median(one or everything)] * (wanted - len(one)) for one in rounds]


def _key(record: dict[str, Any]) -> str:
    """What identifies a point."""
    return f"{record['profile']} {record['seq_len']} {record['uuid']}"


def config_of(rows: list[Row], size: int) -> str:
    """The config that a table gives a size."""
    return next(row.config for row in rows if row.bound is None or size <= row.bound)


def compared(points: Points, rows: list[Row], beside: str | None = None) -> list[dict[str, Any]]:
    """A record per point that was measured again; with the time of another Solution that ``beside`` names."""
    found = []
    for key, record in points.records.items():
        if key not in points.shown_us:
            continue
        shown, choosing = points.shown_us[key], points.choosing[key]
        tried = [n for n in shown if n in points.configs and n in choosing]
        best = min(tried, key=lambda n: statistics.median(choosing[n]))
        row = {name: record[name] for name in ("profile", "seq_len", "rows", "active")}
        row |= {"floor_us": round(record["floor_us"], 1), "ours_us": points.served(rows, key)}
        row |= {name: shown.get(baseline) for name, baseline in BASELINES.items()}
        row |= {"best_config_us": shown[best], "default_us": shown.get("default")}
        if beside is not None:
            row[f"{beside}_us"] = shown.get(beside)
        row |= {"ours_config": config_of(rows, record["seq_len"]), "best_config": best, "workload": record["uuid"]}
        found.append(row)
    order = list(dict.fromkeys(row["profile"] for row in found))
    return sorted(found, key=lambda row: (order.index(row["profile"]), row["seq_len"]))


def public_geomean(points: Points, rows: list[Row]) -> tuple[int, float]:
    """How many public workloads were measured, and their geometric mean in microseconds."""
    known = [key for key, record in points.records.items() if record["uuid"] and key in points.shown_us]
    times = {key: points.served(rows, key) for key in known}
    missing = sorted(key for key, us in times.items() if us is None)
    if missing:
        raise ValueError(f"not measured with the table's config, so there is no mean over all: {', '.join(missing)}")
    return len(times), math.exp(statistics.fmean(math.log(us) for us in times.values() if us is not None))


def markdown(found: list[dict[str, Any]], beside: str | None = None) -> str:
    """The rows in Markdown, with a column for the Solution that ``beside`` names."""
    head = "| profile | tokens | rows | experts | floor | ours | DeepGEMM | Triton | best | ours / best | best config |"
    if beside is not None:
        head = head.replace("| ours |", f"| ours | {beside.replace('_', ' ')} |")
    lines = [head, "|" + "---|" * (head.count("|") - 1)]
    for row in found:
        peers = ("deepgemm_us", "triton_us", "best_config_us")
        times = [row[k] for k in ("floor_us", "ours_us", *([f"{beside}_us"] if beside else []), *peers)]
        cells = [row["profile"], f"{row['seq_len']:,}", f"{row['rows']:,}", str(row["active"])]
        cells += ["-" if us is None else f"{us:,.1f}" for us in times]
        behind = "-" if row["ours_us"] is None else f"{row['ours_us'] / row['best_config_us']:.3f}"
        lines.append("| " + " | ".join([*cells, behind, row["best_config"]]) + " |")
    return "\n".join(lines)


def read(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The records of several files, whose points were divided between cards.

    Raises:
        ValueError: A point is in two files.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        raw = path.read_bytes()
        for record in json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw):
            if found.setdefault(_key(record), record) is not record:
                raise ValueError(f"{path}: {_key(record)} was measured before; samples of two runs do not compare")
    return list(found.values())


def given(path: Path, configs: dict[str, dict[str, Any]]) -> list[Row]:
    """The table of a Solution that was measured: of JSON with names, or of its folder, with the configs themselves."""
    if not path.is_dir():
        return [Row(bound, name, "given") for bound, name in json.loads(path.read_text())]
    rows = []
    for number, (bound, config) in enumerate(runpy.run_path(str(path / "config.py"))["TABLE"], 1):
        name = next((n for n, known in configs.items() if known == config), f"sweep-{number}")
        rows.append(Row(bound, name, _differing(config, configs["default"]) if name.startswith("sweep-") else "given"))
    return rows


def _differing(config: dict[str, Any], default: dict[str, Any]) -> str:
    """What a config has in place of the default."""
    return ", ".join(f"{name} = {value}" for name, value in config.items() if default.get(name) != value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", type=Path, nargs="+", help="folders of variants, for their configs")
    parser.add_argument("--choosing", type=Path, nargs="+", required=True, metavar="FILE", help="records that choose")
    parser.add_argument("--shown", type=Path, nargs="+", metavar="FILE", help="records measured afterwards")
    parser.add_argument("--ours", default=EXPORTED, help="name under which the Solution was measured as one")
    parser.add_argument("--beside", help="name of another Solution, to be shown beside ours")
    parser.add_argument("--regimes", default=",".join(map(str, DEFAULT_BOUNDS)), help="bounds before they are measured")
    parser.add_argument("--only", type=Path, help="JSON with the configs that may be in the table; default: all")
    parser.add_argument("--table", type=Path, help="only write the table, as one_library.py reads it, by all rounds")
    parser.add_argument("--given", type=Path, help="the table of the Solution that was measured, or its folder")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    paths = itertools.chain(*(folder.glob("*/variant.json") for folder in args.variants))
    configs = {path.parent.name: json.loads(path.read_text())["config"] for path in paths}
    for solution in (args.ours, args.beside):
        configs.pop(solution, None)
    shown = read(args.shown) if args.shown else [] if args.table else None
    points = Points(read(args.choosing), configs, shown, [int(b) for b in args.regimes.split(",")], args.ours)
    allowed = list(points.configs) if args.only is None else list(json.loads(args.only.read_text()))
    rows = given(args.given, configs) if args.given else points.table(allowed)
    if args.table:
        args.table.write_text(json.dumps([(row.bound, row.config) for row in rows]))
        return
    found = compared(points, rows, args.beside)
    if args.json:
        args.json.write_text("[\n" + ",\n".join(json.dumps(row) for row in found) + "\n]\n")
    print("| up to | config | why |\n|---|---|---|")
    for row in rows:
        print(f"| {row.bound or 'all'} | {row.config} | {row.why} |")
    count, mean_us = public_geomean(points, rows)
    print(f"\n{count} public workloads: {mean_us:.1f} us\n")
    print(markdown(found, args.beside))


if __name__ == "__main__":
    main()
