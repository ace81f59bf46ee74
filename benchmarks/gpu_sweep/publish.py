"""From the campaign's results to docs/results/gpu-sweep.md and gpu-sweep.json."""

from __future__ import annotations

import argparse
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.gpu_sweep import agreement
from benchmarks.gpu_sweep.context import ROOT

FLOORS = ROOT / "docs" / "results" / "h200-moe.json"
"""Rows, active experts and floor of each public workload; the routing tensors follow the same recipe."""

Document = dict[str, Any]
_NOT_MEASURED = "not measured"
SWEEPS = {
    "busy": "random search, every variant built before",
    "second": "the repeat, builders of this machine",
    "first": "the real sweep, builders of this machine",
}
"""The campaign's sweeps, and who builds for them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``publish``."""
    parser.add_argument("results", type=Path, nargs="+", help="results.json of each campaign; a later one fills gaps")
    parser.add_argument("--markdown", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)


def main(args: argparse.Namespace) -> int:
    """Write both files."""
    campaigns = [json.loads(path.read_text()) for path in args.results]
    figures = headline(campaigns)
    args.json.write_text(json.dumps(figures, indent=1) + "\n")
    remarks = _remarks(args.markdown.read_text()) if args.markdown.exists() else ""
    args.markdown.write_text("\n".join(markdown(campaigns, figures)) + "\n" + remarks)
    return 0


def _remarks(page: str) -> str:
    """What people wrote at the end of the page, which a new one keeps."""
    _, heading, rest = page.partition("\n## Remarks\n")
    return heading + rest


def section(campaigns: Sequence[Document], stage: str) -> Document:
    """A stage's result from the last campaign that finished it; what an unfinished one left otherwise; else empty."""
    found = [c[stage] for c in campaigns if stage in c]
    finished = [f for f in found if "error" not in f]
    return (finished or found or [{}])[-1]


def same_campaign(campaigns: Sequence[Document], *stages: str) -> Document:
    """The last campaign that has all these stages: what is compared must come from one machine."""
    found = [c for c in campaigns if all(s in c and "error" not in c[s] for s in stages)]
    return found[-1] if found else {}


def headline(campaigns: Sequence[Document]) -> Document:
    """The figures by name; None where nothing was measured."""
    pair = same_campaign(campaigns, "throughput", "stock")
    ours, theirs = pair.get("throughput", {}), pair.get("stock", {})
    ratio = ours["per_minute"] / theirs["per_minute"] if theirs.get("per_minute") else None
    first = section(campaigns, "first")
    table = section(campaigns, "table")
    shares = {name: busy_share(section(campaigns, name)) for name in SWEEPS}
    return {
        "throughput_vs_flashinfer_bench": _rounded(ratio),
        # Where builders keep up, if that was measured: their number is the cluster's matter, the evaluator is ours.
        "gpu_busy_share": _rounded(next((s for s in shares.values() if s is not None), None), 3),
        "two_gpu_speedup": _rounded(section(campaigns, "scaling").get("speedup")),
        "workloads_passed": passed(campaigns),
        "winner_repeat_difference": _rounded(winner_difference(table), 4),
        "details": {
            "evaluations_per_minute": _rounded(ours.get("per_minute"), 1),
            "flashinfer_bench_per_minute": _rounded(theirs.get("per_minute"), 1),
            "gpu_busy_share_of_each_sweep": {name: _rounded(share, 3) for name, share in shares.items()},
            "hardware": first.get("hardware") or table.get("hardware"),
            "workloads": len(campaigns[-1]["sizes"]),
            "date": datetime.fromtimestamp(campaigns[-1]["began"], UTC).date().isoformat(),
        },
    }


def busy_share(sweep: Document) -> float | None:
    """Share of the evaluator's wall time in which the GPU ran candidates or checks, as the sweep recorded it."""
    usage = sweep.get("records", {}).get("summary", {}).get("evaluator", {})
    share = usage.get("all", {}).get("gpu_busy_share")
    return float(share) if share is not None else None


def passed(campaigns: Sequence[Document]) -> int | None:
    """Workloads on which stock flashinfer-bench passed the exported Solution."""
    verification = (section(campaigns, "first").get("export") or {}).get("verification")
    if verification and any("flashinfer_bench_us" in v for v in verification.values()):
        return sum("flashinfer_bench_us" in v for v in verification.values())
    tuned = section(campaigns, "stock").get("tuned")
    return int(tuned["passed"]) if tuned else None


def winner_difference(table: Document) -> float | None:
    """Share by which the second sweep's Solution differs from the first's, interleaved, over all workloads."""
    ratio = table.get("ratio_to_first", {}).get("tuned_second")
    return abs(ratio["ratio"] - 1) if ratio else None


def _rounded(value: float | None, digits: int = 2) -> float | None:
    return None if value is None else round(value, digits)


# -- Markdown ---------------------------------------------------------------------------------------------------------


def markdown(campaigns: Sequence[Document], figures: Document) -> list[str]:
    """The page, line by line."""
    page = [
        "# Sweeps on a real GPU",
        "",
        "Routing inputs are synthetic. Commands: benchmarks/gpu_sweep/README.md; its `publish` writes this page.",
        "",
        "| wanted | measured |",
        "|---|---|",
        *_wanted(campaigns, figures),
        "",
        *_devices(campaigns),
        "",
        *_table(campaigns),
        *_baselines(campaigns),
        *_sweeps(campaigns),
        *_throughput(campaigns),
        *_order(campaigns),
        *_faults(campaigns),
    ]
    return laid_out(page)


def laid_out(lines: Sequence[str]) -> list[str]:
    """Prose broken at 118 characters, and an empty line wherever Markdown needs one before a list or a table."""
    page: list[str] = []
    for line in lines:
        kind = line[:1] if line[:1] in "*|#" else "text"
        if not line and page and not page[-1]:
            continue
        before = page[-1][:1] if page and page[-1] else ""
        if before and (before == "#" or (kind in "*|" and before not in (kind, " "))):
            page.append("")
        indent = "  " if kind == "*" else ""
        page += (
            [line]
            if kind in "|#"
            else textwrap.wrap(line, 118, subsequent_indent=indent, break_on_hyphens=False) or [""]
        )
    return page


def _devices(campaigns: Sequence[Document]) -> list[str]:
    lines = []
    for campaign in campaigns:
        at = datetime.fromtimestamp(campaign["began"], UTC).strftime("%Y-%m-%d %H:%M")
        setup = campaign.get("setup", {})
        gpus = "; ".join(setup.get("gpus", "").strip().splitlines())
        versions = ", ".join(f"{k} {v}" for k, v in setup.get("versions", {}).items() if v)
        done = ", ".join(k for k, v in campaign.items() if isinstance(v, dict) and k != "sizes" and "error" not in v)
        lines.append(f"* {at} UTC: {gpus or 'no GPU'}; Python {setup.get('python')}, {versions}. Stages: {done}.")
    return lines


def _wanted(campaigns: Sequence[Document], figures: Document) -> list[str]:
    rate, speedup = figures["throughput_vs_flashinfer_bench"], figures["two_gpu_speedup"]
    share, difference = figures["gpu_busy_share"], figures["winner_repeat_difference"]
    workloads, total = figures["workloads_passed"], len(campaigns[-1]["sizes"])
    compared = same_campaign(campaigns, "throughput", "stock")
    rows = {
        "exported Solution passes stock flashinfer-bench": None if workloads is None else f"{workloads} of {total}",
        "at least 10x the evaluations a minute of `flashinfer-bench run`": _times(rate),
        "same verdicts as `flashinfer-bench run`": _verdicts_line(compared) if compared else None,
        "same order of the top five": _best_line(campaigns, compared) if compared else None,
        "GPU busy at least 80 % of a sweep of 200 variants": None if share is None else f"{share:.1%}",
        "two sweeps' winners within 1 %": None if difference is None else f"{difference:.2%}",
        "two GPUs at least 1.9x": _times(speedup),
        "fifty planted faults among 200 variants": _faults_line(section(campaigns, "faults")),
    }
    return [f"| {wanted} | {measured or _NOT_MEASURED} |" for wanted, measured in rows.items()]


def _faults_line(faults: Document) -> str | None:
    if "good" not in faults:
        return None
    return (
        f"{faults['good_with_all_records']} of {faults['good']} good ones with all records, "
        f"{len(faults['good_blamed'])} blamed; {faults['planted_named']} of {faults['planted']} faults named rightly"
    )


def _shares(campaigns: Sequence[Document]) -> list[str]:
    """How busy the GPU was in each sweep, as a list."""
    found = {name: busy_share(section(campaigns, name)) for name in SWEEPS}
    lines = [f"* {share:.1%}: {SWEEPS[name]}." for name, share in found.items() if share is not None]
    usage = section(campaigns, "busy").get("records", {}).get("summary", {}).get("evaluator", {}).get("all")
    if usage:
        busy = usage["candidate_s"] + usage["check_s"] + usage["cold_s"] + usage["anchor_s"]
        share = busy / (usage["evaluate_s"] + usage["idle_s"])
        lines.append(f"* {share:.1%}: the random search with cache flushes and the drift reference counted as well.")
    return ["How busy the GPU was:", *lines, ""] if lines else []


def _times(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}x"


def _verdicts_line(campaign: Document) -> str:
    verdicts = agreement.verdicts(campaign["throughput"]["measurements"], campaign["stock"]["rows"])
    return f"{len(verdicts.different)} of {verdicts.compared} verdicts differ"


def _best_line(campaigns: Sequence[Document], campaign: Document) -> str:
    ours = section(campaigns, "eager").get("measurements") or campaign["throughput"]["measurements"]
    orders = agreement.orders(ours, campaign["stock"]["rows"])
    pairs, swapped = sum(o.pairs for o in orders), sum(len(o.swapped) for o in orders)
    same = sum(o.same_best for o in orders)
    return f"{swapped} of {pairs} pairs swapped, same best on {same} of {len(orders)} workloads; see below"


def _order(campaigns: Sequence[Document]) -> list[str]:
    """How far stock flashinfer-bench's order of the fastest can be told from its own noise."""
    campaign = same_campaign(campaigns, "throughput", "stock")
    if not campaign:
        return []
    theirs = campaign["stock"]["rows"]
    lines = ["## Order of the top five"]
    eager = section(campaigns, "eager").get("measurements")
    if eager:
        lines.append(f"* Timed eagerly as there: {_order_line(eager, theirs)}.")
    lines.append(f"* Timed as CUDA graphs: {_order_line(campaign['throughput']['measurements'], theirs)}.")
    runs = section(campaigns, "again").get("runs")
    if eager and runs:
        held = agreement.held(agreement.orders(eager, theirs), runs)
        lines.append(
            f"* {len(held)} of the first were timed in {len(runs)} more runs of `flashinfer-bench run`: "
            f"{held.count(len(runs))} are the other way round in all of them, {held.count(0)} in none."
        )
        if len(runs) > 1:
            lines.append(f"* Two of those runs, one after the other: {_spread(agreement.repeats(runs[0], runs[1]))}.")
    if exported := stock_repeats(campaigns):
        lines.append(f"* Its two figures of the exported Solution: {_spread(exported)}.")
    return [*lines, ""]


def _spread(shares: Sequence[float]) -> str:
    rms = math.sqrt(sum(s * s for s in shares) / len(shares))
    return f"{len(shares)} figures differ by {rms:.1%} (root mean square; {max(shares):.1%} at most)"


def stock_repeats(campaigns: Sequence[Document]) -> list[float]:
    """By what share stock flashinfer-bench's two figures of the exported Solution differ, for each workload: that of
    the export's verification and that of the comparison."""
    once = (section(campaigns, "first").get("export") or {}).get("verification") or {}
    rows = [
        r for r in section(campaigns, "stock").get("rows", []) if r["solution"] == "tuned_first" and r["latency_us"]
    ]
    pairs = [(r["latency_us"], once.get(r["workload"], {}).get("flashinfer_bench_us")) for r in rows]
    return [abs(first / again - 1) for first, again in pairs if again]


def _order_line(ours: Sequence[agreement.Row], theirs: Sequence[agreement.Row]) -> str:
    orders = agreement.orders(ours, theirs)
    pairs, swapped = sum(o.pairs for o in orders), sum(len(o.swapped) for o in orders)
    worst = max((o.worst for o in orders), default=0.0)
    same = sum(o.same_best for o in orders)
    return (
        f"{swapped} of {pairs} pairs that our intervals tell apart are the other way round there (by {worst:.1%} at "
        f"most), the same best on {same} of {len(orders)} workloads"
    )


def _table(campaigns: Sequence[Document]) -> list[str]:
    """Per workload, in microseconds: floor, every Solution of the interleaved run, stock figure of the exported one."""
    table = section(campaigns, "table")
    if not table.get("solutions"):
        return []
    sizes = next(c["sizes"] for c in reversed(campaigns) if "table" in c)
    names = _fastest_first(table["solutions"])
    floors = {row["seq_len"]: row for row in json.loads(FLOORS.read_text())}
    stock = _stock_figures(campaigns)
    lines = [
        "## Per workload",
        f"Median in microseconds, {table.get('hardware', '')}, all Solutions interleaved in one run (CUDA graph, cold "
        "L2). F = max(active experts x 44.04 MB / 4.3 TB/s, rows x 88.1 MFLOP / 1.5 PFLOP/s). Last column: what "
        "`flashinfer-bench run` says about tuned_first (eager, its own timer, host launch time included).",
        "",
        "| seq_len | F | " + " | ".join(_short(n) for n in names) + " | stock |",
        "|---" * (len(names) + 3) + "|",
    ]
    for uuid, size in sizes.items():
        cells = [_cell(table["solutions"][n]["workloads"].get(uuid), table["solutions"][n]["status"]) for n in names]
        floor = f"{floors[size]['floor_us']:.1f}" if size in floors else "-"
        lines.append(f"| {size:,} | {floor} | {' | '.join(cells)} | {_us(stock.get(uuid))} |")
    means = [_geomean(table["solutions"][n]["workloads"].values()) for n in names]
    lines += [f"| geometric mean | | {' | '.join(_us(m) for m in means)} | |", ""]
    singles = {n: m for n, m in zip(names, means, strict=True) if n.startswith("single_") and m}
    if singles:
        best = min(singles, key=lambda n: singles[n])
        lines += [f"Best single config: {best}. single_R is the winner of regime R used for every size.", ""]
    skipped = {n: s["message"] for n, s in table["solutions"].items() if s["status"] != "PASSED"}
    return [*lines, *(f"* {n}: {m.splitlines()[0][:200] if m else ''}" for n, m in skipped.items()), ""]


def _baselines(campaigns: Sequence[Document]) -> list[str]:
    """Per workload, in microseconds: the tuned Solution and every baseline that runs here, eagerly."""
    found = section(campaigns, "baselines")
    given = found.get("solutions", {})
    solutions = {n: given[n] for n in _fastest_first(given) if not given[n]["skipped"]}
    if not solutions:
        return []
    lines = [
        "## All baselines, eagerly",
        f"Median in microseconds, {found.get('hardware', '')}, interleaved in one run, cold L2: DeepGEMM's contiguous "
        "layout reads a row count back, so that no CUDA graph can hold it, and its figures hold the host's time.",
        "",
        "| seq_len | " + " | ".join(_short(n) for n in solutions) + " |",
        "|---" * (len(solutions) + 1) + "|",
    ]
    sizes = next(c["sizes"] for c in reversed(campaigns) if "baselines" in c)
    for uuid, size in sizes.items():
        cells = [_cell(s["workloads"].get(uuid), s["status"]) for s in solutions.values()]
        lines.append(f"| {size:,} | {' | '.join(cells)} |")
    means = [_us(_geomean(s["workloads"].values())) for s in solutions.values()]
    skipped = {n: s["skipped"] for n, s in given.items() if s["skipped"]}
    return [
        *lines,
        f"| geometric mean | {' | '.join(means)} |",
        "",
        *(f"* {_short(n)}: skipped, {why}" for n, why in skipped.items()),
        "",
    ]


def _stock_figures(campaigns: Sequence[Document]) -> dict[str, float]:
    verification = (section(campaigns, "first").get("export") or {}).get("verification") or {}
    figures = {uuid: v["flashinfer_bench_us"] for uuid, v in verification.items() if "flashinfer_bench_us" in v}
    rows = [r for r in section(campaigns, "stock").get("rows", []) if r["solution"] == "tuned_first"]
    # Its default effort where there is such a figure, what the export's verification gave elsewhere.
    return {**figures, **{r["workload"]: r["latency_us"] for r in rows if r["latency_us"]}}


def _short(name: str) -> str:
    """A baseline's kind; other names as they are."""
    return name.split("_")[1] if name.startswith("baseline_") else name


def _cell(row: Mapping[str, Any] | None, status: str) -> str:
    return _us(row["median_us"]) if row and row["median_us"] else status


def _fastest_first(solutions: Mapping[str, Any]) -> list[str]:
    return sorted(solutions, key=lambda n: _geomean(solutions[n]["workloads"].values()) or math.inf)


def _us(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _geomean(rows: Any) -> float | None:
    values = [r["median_us"] for r in rows if r["median_us"]]
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def _sweeps(campaigns: Sequence[Document]) -> list[str]:
    columns = ("sweep", "seed", "trials", "evaluations", "states", "wall s", "builds", "build s (sum)", "NVML busy")
    seconds: list[str] = []
    lines = ["## The sweeps", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for campaign in campaigns:
        for name in ("first", "second", "busy"):
            sweep = campaign.get(name, {})
            records = sweep.get("records")
            if not records:
                continue
            states = ", ".join(f"{k} {v}" for k, v in sorted(records["states"].items()))
            builds = records["build_s"]
            stage = next((s for s in campaign["stages"] if s["stage"] == name), {})
            utilisation = stage.get("gpu_utilisation_in_search")
            cells = [
                name, sweep.get("seed"), sum(records["states"].values()), records["evaluations"], states,
                f"{sweep.get('wall_s', 0):.0f}", builds["count"], f"{builds['sum']:.0f}",
                "-" if utilisation is None else f"{utilisation:.0%}",
            ]  # fmt: skip
            lines.append(f"| {' | '.join(map(str, cells))} |")
            usage = records["summary"].get("evaluator", {})
            seconds += [f"* {name}, {part}: {_seconds(usage[part])}" for part in ("search", "finals") if part in usage]
    busy = _shares(campaigns)
    return [*lines, "", *busy, "Where the evaluator's time went:", *seconds, ""] if seconds else [*lines, "", *busy]


def _seconds(usage: Mapping[str, float]) -> str:
    parts = [f"{key.removesuffix('_s')} {value:.1f} s" for key, value in usage.items() if key.endswith("_s")]
    share = usage.get("gpu_busy_share")
    return ", ".join([*parts, *([f"GPU busy {share:.1%}"] if share is not None else [])])


def _throughput(campaigns: Sequence[Document]) -> list[str]:
    pair = same_campaign(campaigns, "throughput", "stock")
    lines = ["## Throughput"]
    if pair:
        ours, theirs = pair["throughput"], pair["stock"]
        walls = sum(c["wall_s"] for c in theirs["calls"])
        lines += [
            f"* Ours: {ours['evaluations']} evaluations in {ours['evaluate_s']:.1f} s ({ours['per_minute']:.0f} a "
            f"minute) once built and warm; the whole run took {ours['total_s']:.1f} s, with the start of Ray, "
            f"{ours['build_s']:.1f} s of builds and {ours['warm_s']:.1f} s until every workload was resident.",
            f"* flashinfer-bench: {theirs['evaluations']} evaluations in {walls:.1f} s ({theirs['per_minute']:.0f} a "
            f"minute) in {len(theirs['calls'])} call(s), Solutions compiled beforehand, its default effort.",
            f"* Whole run against whole run, our builds included: "
            f"{ours['evaluations'] / ours['total_s'] / (theirs['evaluations'] / walls):.2f}x.",
        ]
        if theirs.get("left_out"):
            lines.append(
                f"* Left out there for lack of time: seq_len {', '.join(map(str, theirs['left_out']))}; its rate is "
                "that of the rest."
            )
    scaling = section(campaigns, "scaling")
    if scaling.get("two"):
        one, two = scaling["one"], scaling["two"]
        lines.append(
            f"* One GPU {one['per_minute']:.0f}, two GPUs {two['per_minute']:.0f} evaluations a minute "
            f"({one['evaluations']} in {one['evaluate_s']:.1f} s, {two['evaluations']} in {two['evaluate_s']:.1f} s)."
        )
    return [*lines, ""]


def _faults(campaigns: Sequence[Document]) -> list[str]:
    faults = section(campaigns, "faults")
    if "good" not in faults:
        return []
    lines = [
        "## Planted faults",
        f"{faults['variants']} variants in random order on one GPU in {faults['evaluate_s']:.0f} s, "
        f"{faults['planted']} of them planted ({', '.join(faults['kinds'])}); "
        f"{faults['rejected_at_build']} good ones were refused at build by their static figures.",
    ]
    lines += [f"* blamed: {b['key']}: {b['status']} {b['message'][:200]}" for b in faults["good_blamed"]]
    lines += [f"* {b['key']}: {b['status']} instead of {b['expected']}" for b in faults["planted_otherwise"]]
    return [*lines, ""]
