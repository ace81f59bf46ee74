"""Fills the page template with the figures and tables of a sweep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from db.records import FailureCount, SweepRecord, TrialPoint, WinnerRecord
from db.store import Store
from tuner.errors import NothingFoundError
from tuner.files import replacing
from tuner.format import ratio, workload_text
from tuner.results import roofline
from tuner.results.report import figures
from tuner.results.report.input_page import from_template, input_table
from tuner.results.report.side_by_side import Beside, of_document, read
from tuner.results.status import NOT_FAILURES, moment


@dataclass(frozen=True)
class Material:
    """The records that a report is made from."""

    sweep: SweepRecord
    trials: list[TrialPoint]
    failed: list[FailureCount]
    winners: list[WinnerRecord]
    floors: roofline.Roofline
    beside: Beside | None = None


def write_report(store: Store, sweep_id: int | None = None, out: Path | None = None, bench: Path | None = None) -> Path:
    """Write the page as one file, which includes everything it needs, Plotly's script too.

    Args:
        sweep_id: None for the newest sweep that has trials.
        out: Default ``tuner-report-ID.html`` in the current folder.
        bench: Output of ``tuner bench --json`` for the same definition: other Solutions to show beside the tuned one.

    Raises:
        UsageError: The bench file cannot be used.
        NothingFoundError: There is no sweep, or it has no trials yet.
        UnusableEnvironmentError: The file cannot be written.
    """
    if sweep_id is None:
        newest = store.sweeps.newest()
        if not newest:
            raise NothingFoundError("no sweep to report on; `tuner sweep` runs one")
        # A sweep is stored before its workers start: one that never began hides no earlier one.
        counts = store.trials.counts([sweep.id for sweep in newest])
        sweep_id = next((sweep.id for sweep in newest if counts.get(sweep.id)), newest[0].id)
    failed = store.trials.failures(sweep_id, not_failures=NOT_FAILURES)
    record = store.sweeps.get(sweep_id)
    beside = None if bench is None else read(bench, record.definition)
    if beside is None and (record.summary or {}).get("baseline"):
        beside = of_document(record.summary["baseline"])
    winners = store.winners.of(sweep_id)
    floors = roofline.of_sweep(store, record, winners)
    material = Material(record, store.trials.points(sweep_id), failed, winners, floors, beside)
    if not material.trials:
        raise NothingFoundError(f"sweep {sweep_id} has no finished trial yet")
    path = out or Path(f"tuner-report-{sweep_id}.html")
    text = render(material)
    with replacing(path, "the report") as scratch:
        scratch.write_text(text, encoding="utf-8")
    return path


def render(material: Material) -> str:
    """The page as HTML text."""
    reference = dict(material.sweep.summary.get("reference_by_workload_us", {}))
    drawn = figures.of_sweep(material.trials, material.winners, material.sweep.summary, material.floors)
    return from_template(
        "page.html",
        sweep=material.sweep,
        started=moment(material.sweep.started_at),
        finished=moment(material.sweep.finished_at),
        states=Counter(t.state for t in material.trials).most_common(),
        total=len(material.trials),
        winners=[_winner_row(w, material) for w in material.winners],
        workloads=[row for w in material.winners for row in workload_rows(w, reference)],
        failures=failures(material.trials, material.failed),
        pictures={name: figures.html(figure) for name, figure in drawn.items()},
        floors=material.floors.us,
        floors_from=material.floors.origin,
        expected=material.sweep.summary.get("expected", {}),
        crossings=material.sweep.summary.get("crossings", ()),
        inputs=input_table(material.sweep.summary.get("inputs", ())),
        beside=material.beside,
        ratio=ratio,
    )


def _winner_row(winner: WinnerRecord, material: Material) -> dict[str, Any]:
    final = dict(material.sweep.summary.get("finals", {})).get(winner.regime, {})
    return {
        "regime": winner.regime,
        "record": winner,
        "speedup": ratio(winner.default_median_us, winner.median_us),
        "settled": final.get("settled"),
        "reason": final.get("reason", ""),
        "refused": [f"config {key}: {why}" for key, why in dict(final.get("refused", {})).items()],
        "rounds": final.get("rounds"),
    }


def workload_rows(winner: WinnerRecord, reference: dict[str, float]) -> list[dict[str, Any]]:
    """A winner's workloads by size, each with the time of the reference if it is known."""
    return [
        {
            "axes": workload_text(w.axes, w.profile),
            "regime": winner.regime,
            "record": w,
            "reference_us": reference.get(w.workload),
        }
        for w in sorted(winner.workloads, key=lambda w: (tuple(w.axes.values()), w.profile))
    ]


def failures(trials: Iterable[TrialPoint], failed: Iterable[FailureCount]) -> list[dict[str, Any]]:
    """Failed trials grouped by status and last line of the message, most frequent first, each with an example."""
    groups: dict[tuple[str, str], list[FailureCount]] = {}
    for group in failed:
        lines = group.reason.strip().splitlines()
        groups.setdefault((group.state, lines[-1] if lines else ""), []).append(group)
    by_number = {t.number: t for t in trials}
    found = [
        {"state": state, "message": message, "count": sum(g.trials for g in same), "example": by_number[same[0].first]}
        for (state, message), same in groups.items()
    ]
    return sorted(found, key=lambda group: -group["count"])
