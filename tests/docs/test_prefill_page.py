"""Figures of the prefill page are those of its raw samples."""

from __future__ import annotations

import gzip
import itertools
import json
import statistics
from pathlib import Path
from typing import Any

import pytest

RESULTS = Path(__file__).parents[2] / "docs" / "results"
PROFILES = {"recorded": "recorded-like"}
FORMS = {
    "two_g": "two_g128_256",
    "two_g_b": "two_g128_256b",
    "two_g_h": "two_g128_256_h",
    "two_t": "two_t64_128",
    "two_t_h": "two_t64_128_h",
    "two_t_w": "two_t64_128w",
    "two_n_h": "two_n16_32_h",
    "table": "pool_table",
    "sweep": "exported",
}
"""Short names of the page."""


@pytest.fixture(scope="module")
def raw() -> dict[str, Any]:
    return json.loads(gzip.decompress((RESULTS / "prefill-raw.json.gz").read_bytes()))


def rows(title: str) -> list[dict[str, str]]:
    """The rows of a section, by column."""
    page = (RESULTS / "prefill.md").read_text()
    section = page.split(f"## {title}")[1].split("\n## ")[0]
    found = []
    for block in section.split("\n\n"):
        if block.startswith("| profile"):
            head, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines())
            found += [dict(zip(head, line, strict=True)) for line in lines]
    return found


@pytest.mark.parametrize(
    ("title", "runs"),
    [("All forms fed tile by tile", ("6", "6 rows")), ("The tables of a pool and of a sweep", ("8",))],
)
def test_tables_of_a_run_are_medians_of_its_samples(raw, title, runs):
    """A table edited by hand, or raw figures of another run, would pass every other test."""
    points = {(p["profile"], p["seq_len"]): p for run in runs for p in raw["runs"][run]["points"]}
    shown = rows(title)
    assert len(shown) == len(points)
    for row in shown:
        point = points[PROFILES.get(row["profile"], row["profile"]), int(row["tokens"].replace(",", ""))]
        us = {n: statistics.median(itertools.chain(*rounds)) for n, rounds in point["samples_us"].items()}
        own = {name: at for name, at in us.items() if not name.startswith("baseline_")}
        best = min(own, key=own.__getitem__)
        factor, name = row["best"].rstrip(")").split(" F (")
        assert (FORMS.get(name, name), float(factor)) == (best, pytest.approx(own[best] / point["floor_us"], abs=6e-4))
        deepgemm = us["baseline_deepgemm"]
        at, ratio = row["DeepGEMM (of best)"].rstrip(")").split(" (")
        assert float(at.replace(",", "")) == pytest.approx(deepgemm, abs=0.06)
        assert float(ratio) == pytest.approx(deepgemm / own[best], abs=6e-3)
        for column in set(row) - {"profile", "tokens", "rows", "best", "DeepGEMM (of best)", "MHz, W"}:
            if row[column] == "-":
                assert FORMS.get(column, column) not in own
            else:
                figure = own[FORMS.get(column, column)]
                assert float(row[column].replace(",", "")) == pytest.approx(figure, abs=0.06), (row, column)


def test_what_the_page_says_was_checked_is_in_the_raw_figures(raw):
    checks = [c for c in raw["checks"] if c["run"] == "6"]
    cases = [c["line"].split(":")[0] for c in checks if c["what"] == "random cases"]
    assert len(set(cases)) == len(cases) == 22
    assert all("PASSED checks=30" in c["line"] for c in checks if c["what"] == "random cases")
    for tool, count in (("memcheck", 4), ("racecheck", 1)):
        lines = [c["line"] for c in checks if c["what"] == tool]
        assert sum("PASSED" in line for line in lines) == sum("SUMMARY: 0" in line for line in lines) == count
    assert {e["status"] for e in raw["emulated"]} == {"EMULATED_PASSED"}
    assert [len(e["inputs"]) for e in raw["emulated"]] == [7] * 8 + [1] * 2
    assert raw["equal"]["line"] == "250 comparisons of 10 configs, 0 different"
