"""The pages' plots as JSON for Plotly's script; the same figures as in the report file."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from db.records import MeasurementRecord
from db.store import Store
from tuner.report import figures as report

KEPT = 64
"""Sweeps whose figures a server process keeps; importance costs seconds, and a finished sweep does not change."""

_kept: OrderedDict[tuple[int, int, str], dict[str, Any]] = OrderedDict()
_lock = threading.Lock()


def figures(store: Store, sweep_id: int) -> dict[str, Any]:
    """Name -> figure of a sweep's page; a figure is None while there is too little to show.

    Raises:
        NoSuchSweep: There is none.
    """
    sweep = store.get_sweep(sweep_id)
    count = sum(store.trial_counts([sweep_id])[sweep_id].values())
    key = (sweep_id, count, sweep.state)
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
    trials = store.trials(sweep_id, measurements=False)
    reference = dict(sweep.summary.get("reference_by_workload_us", {}))
    made = {
        "progress": plain(report.best_so_far(trials)) if trials else None,
        "importance": plain(report.importance(trials)),
        "speedups": plain(report.speedups(store.winners(sweep_id), reference)),
    }
    with _lock:
        _kept[key] = made
        if len(_kept) > KEPT:
            _kept.popitem(last=False)
    return made


def histogram(measurements: Sequence[MeasurementRecord], sizes: dict[str, str]) -> dict[str, Any] | None:
    """The samples of a trial, one box per workload; None if none are kept."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for m in measurements:
        if m.samples_us:
            figure.add_trace(
                go.Box(x=m.samples_us, name=sizes.get(m.workload, m.workload[:8]), boxpoints="all", jitter=0.5)
            )
    if not figure.data:
        return None
    figure.update_xaxes(title="latency (us)", type="log")
    figure.update_layout(
        height=90 + 46 * len(figure.data),
        showlegend=False,
        margin={"l": 100, "r": 20, "t": 10, "b": 45},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(128,128,128,0.06)",
        font={"color": "#7a808a", "family": "system-ui, sans-serif"},
    )
    return plain(figure)


def plain(figure: Any) -> dict[str, Any] | None:
    """A figure as plain JSON values, without Plotly's default template, which is most of the bytes."""
    if figure is None:
        return None
    document: dict[str, Any] = json.loads(figure.to_json())
    document["layout"].pop("template", None)
    return document
