"""Do our workers and stock flashinfer-bench say the same about the same Solutions? Verdicts, and who is fastest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

Row = Mapping[str, Any]
TOP = 5


@dataclass(frozen=True)
class Verdicts:
    """Pairs of a Solution and a workload that both judged; ``different`` holds what ours and theirs said."""

    compared: int
    different: list[tuple[str, str, str, str]]


@dataclass(frozen=True)
class Order:
    """The fastest ones on one workload.

    ``pairs`` counts the pairs of our top five whose intervals do not overlap, ``swapped`` has those (our faster one
    first) that stock flashinfer-bench has the other way round, ``worst`` is the largest share by which such a pair
    differs there.
    """

    workload: str
    pairs: int
    swapped: tuple[tuple[str, str], ...]
    worst: float
    same_best: bool


def verdicts(ours: Sequence[Row], theirs: Sequence[Row]) -> Verdicts:
    """Compare PASSED or not, where both judged: we stop at a Solution's first failure, they go on."""
    said = {(r["solution"], r["workload"]): r["status"] for r in theirs}
    both = [(m, said[m["variant"], m["workload"]]) for m in ours if (m["variant"], m["workload"]) in said]
    different = [
        (m["variant"], m["workload"], m["status"], status)
        for m, status in both
        if (m["status"] == "PASSED") != (status == "PASSED")
    ]
    return Verdicts(len(both), different)


def orders(ours: Sequence[Row], theirs: Sequence[Row]) -> list[Order]:
    """One for each workload on which both timed at least two Solutions."""
    latency = {(r["solution"], r["workload"]): r["latency_us"] for r in theirs if r["latency_us"]}
    found = []
    for workload in dict.fromkeys(m["workload"] for m in ours):
        timed = [
            m for m in ours
            if m["workload"] == workload and m["median_us"] and (m["variant"], workload) in latency
        ]  # fmt: skip
        top = sorted(timed, key=lambda m: m["median_us"])[:TOP]
        if len(top) < 2:
            continue
        apart = [(a, b) for a, b in combinations(top, 2) if a["high_us"] < b["low_us"]]
        pairs = [(a["variant"], b["variant"]) for a, b in apart]
        gaps = {(a, b): latency[a, workload] / latency[b, workload] - 1 for a, b in pairs}
        swapped = tuple(pair for pair, gap in gaps.items() if gap > 0)
        best = min(timed, key=lambda m: latency[m["variant"], workload])
        # Theirs is our best, or one whose interval says that it might be.
        same = best["low_us"] <= top[0]["high_us"]
        found.append(Order(workload, len(pairs), swapped, max([0.0, *gaps.values()]), same))
    return found


def repeats(first: Sequence[Row], again: Sequence[Row]) -> list[float]:
    """By what share two runs' figures of the same Solution on the same workload differ."""
    figures = {(r["solution"], r["workload"]): r["latency_us"] for r in first}
    pairs = [(figures.get((r["solution"], r["workload"])), r["latency_us"]) for r in again]
    return [abs(one / other - 1) for one, other in pairs if one and other]


def held(found: Sequence[Order], runs: Sequence[Sequence[Row]]) -> list[int]:
    """For each swapped pair in how many more runs of stock flashinfer-bench it was swapped again; pairs that a run did
    not time are left out."""
    latencies = [{(r["solution"], r["workload"]): r["latency_us"] for r in run if r["latency_us"]} for run in runs]
    again = []
    for order in found:
        for a, b in order.swapped:
            both = [(run.get((a, order.workload)), run.get((b, order.workload))) for run in latencies]
            if all(x and y for x, y in both):
                again.append(sum(x > y for x, y in both if x and y))
    return again
