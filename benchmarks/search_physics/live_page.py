"""The page's part about sweeps on the GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def page(document: dict[str, Any]) -> list[str]:
    """The newest sweep, and those that were compared."""
    return [*_alone(document["alone"]), *_latest(document.get("latest"))]


LIVE = {
    "trials": ("trials", "d"),
    "starts": ("of them hand-made starts", "d"),
    "search_s": ("search, s (wanted: 75 for 240 trials)", ".0f"),
    "sweep_s": ("whole sweep, s", ".0f"),
    "gpu_busy_search": ("GPU busy in the search (wanted: 0.60)", ".2f"),
    "longest_builds_s": ("the 15 longest builds, median, s", ".1f"),
    "builds_s": ("all builds, median, s", ".1f"),
    "build_cpu_s": ("CPU seconds a variant, mean", ".2f"),
    "trials_a_second_after_60_s": ("trials a second after the first minute", ".1f"),
}
"""What of a sweep is shown: its name and format."""


def _sweeps(heads: Sequence[str], sweeps: Sequence[dict[str, Any]], keys: Sequence[str] = tuple(LIVE)) -> list[str]:
    """A table of sweeps, one a column."""
    lines = ["", f"| | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    for key in keys:
        name, form = LIVE[key]
        shown = ["" if s.get(key) is None else format(s[key], form) for s in sweeps]
        if any(shown):
            lines.append(f"| {name} | {' | '.join(shown)} |")
    return lines


def _alone(found: dict[str, Any]) -> list[str]:
    """The newest sweep, which had its machine for itself."""
    by_time = " | ".join(f"{share:.2f}" for share in found["nvml_busy_by_time"])
    ends = " | ".join(f"{5 * i}" for i in range(len(found["nvml_busy_by_time"])))
    return [
        "",
        "## Live: how busy the GPU is",
        "",
        "One sweep of the main definition without starts on 2026-12-01 (ff668fb and c9f3a77), one H200 and its 16",
        "threads, nothing beside it, empty caches, 19 workloads, five regimes, at most "
        f"{found['max_trials']} trials and {found['budget_s']:.0f} s:",
        *_sweeps(("measured",), (found,), [key for key in LIVE if key != "trials_a_second_after_60_s"]),
        f"| trials a second | {found['trials'] / found['search_s']:.1f} |",
        f"| GPU busy in the search, mean of the driver's samples | {found['nvml_busy_search']:.2f} |",
        "",
        "**Busy 0.60 is not reached.** Before the run 0.62 to 0.66 and 37 to 41 s had been predicted; measured:",
        f"{found['gpu_busy_search']:.2f} and {found['search_s']:.0f} s from the first proposal to the last result",
        "(45 s by its own log). Finished builds and finished trials are equally many all along, so builds are what",
        f"limits: for {found['idle_s']:.1f} s the evaluator had nothing to do. For {found['other_s']:.1f} s it loaded",
        f"and prepared, for {found['busy_s']:.1f} s the GPU timed and checked. The driver's share by time; at first",
        "there are variants that were built ahead:",
        "",
        f"| search, from s | {ends} |",
        f"|---|{'---|' * len(found['nvml_busy_by_time'])}",
        f"| busy | {by_time} |",
        "",
        "CPU seconds of builders are of 16 threads that are all at work; below, of two cores that other work shared.",
    ]


def _latest(found: dict[str, Any] | None) -> list[str]:
    """The newest sweeps on the GPU."""
    if found is None:
        return []
    low, high = (f"{100 * x:.2f}" for x in found["rel_interval"])
    first, second, minute = found["without_starts"], found["with_starts"], found["minute"]
    lines = [
        "",
        "## Live: without starts and with them",
        "",
        "Of before searches were asked in a thread: for how busy the GPU is and what trials take, see above.",
        "Sweeps of the main definition at 056c3ba, 2026-11-30, each on one H200 and 16 of the 32 cores of a machine",
        "that had two; another sweep ran on the other half. 19 workloads, five regimes. The last column: 60 s, start",
        f"and end included, and at most {minute['max_trials']} trials.",
    ]
    # The earlier sweeps took over a minute, these do not.
    shown = [key for key in LIVE if key != "trials_a_second_after_60_s"]
    lines += _sweeps(("without starts", "with starts", "`--budget-s 60`"), (first, second, minute), shown)
    lines += [
        "",
        f"Without starts the winners are **{100 * found['rel_without_starts']:.2f} %** [{low}, {high}] slower (wanted:",
        f"within 2 %), geometric mean over {len(found['side_by_side'])} sizes, interleaved by `tuner bench` as",
        f"graphs; at the worst size {100 * found['rel_worst']:.1f} %.",
        "",
        "| tokens | without starts, us | with starts, us | ratio |",
        "|---|---|---|---|",
    ]
    for row in found["side_by_side"]:
        lines.append(f"| {row['tokens']:,} | {row['without_us']:.1f} | {row['with_us']:.1f} | {row['ratio']:.3f} |")
    return lines
