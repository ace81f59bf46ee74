"""Other Solutions beside the tuned one: reads the JSON document of ``tuner bench`` for the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.errors import UsageError
from tuner.files import read_object
from tuner.format import first_line, microseconds


@dataclass(frozen=True)
class Beside:
    """One interleaved run of several Solutions.

    ``rows`` hold axes and one cell for each of ``names``; ``ratios`` the time of each Solution over that of the first;
    ``left_out`` says why a Solution has no figures.
    """

    hardware: str
    names: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    ratios: Mapping[str, str]
    left_out: Mapping[str, str]


def of_document(document: Mapping[str, Any]) -> Beside:
    """The run in a document of ``tuner bench``, or in the summary of a sweep with a baseline."""
    solutions: dict[str, Any] = dict(document["solutions"])
    axes = {u: w["axes"] for s in solutions.values() for u, w in s["workloads"].items()}
    return Beside(
        str(document["hardware"]),
        tuple(solutions),
        tuple((axes[u], tuple(_cell(s, u) for s in solutions.values())) for u in axes),
        {n: f"{r['ratio']:.3f} [{r['low']:.3f}, {r['high']:.3f}]" for n, r in dict(document["ratio_to_first"]).items()},
        {n: _why(s) for n, s in solutions.items() if s["status"] != "PASSED"},
    )


def read(path: Path, definition: str) -> Beside:
    """The run in a file that ``tuner bench --json`` wrote.

    Raises:
        UsageError: It cannot be read, is not such a file, or is about another definition.
    """
    document = read_object(path, "bench file")
    try:
        found = str(document["definition"])
        beside = of_document(document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(f"bench file {path} is not what `tuner bench --json` writes: {problem}") from None
    if found != definition:
        raise UsageError(f"bench file {path} is about {found}, the sweep about {definition}")
    return beside


def _cell(solution: Mapping[str, Any], workload: str) -> str:
    row = solution["workloads"].get(workload)
    return microseconds(row["median_us"]) if row and row["median_us"] else "-"


def _why(solution: Mapping[str, Any]) -> str:
    if solution.get("skipped"):
        return f"skipped: {solution['skipped']}"
    return f"{solution['status']} {first_line(str(solution['message']))}".strip()
