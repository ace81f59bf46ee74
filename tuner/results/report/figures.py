"""The plots of a sweep as Plotly's JSON, for the report file and for the pages of the service.

Plain documents; Plotly's Python objects cost a hundred times as much to make and to write.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from db.records import TrialPoint, WinnerRecord, WinnerWorkload
from tuner.format import workload_text
from tuner.results.roofline import Roofline

Figure = dict[str, Any]
"""A figure as Plotly's script takes it: ``data`` and ``layout``."""

COLOURS = ("#3b6fd4", "#d9822b", "#2b9a66", "#b0499b", "#8a8f98")
GRID = "rgba(128,128,128,0.25)"
SECONDS = {"exponentformat": "SI", "ticksuffix": "s", "hoverformat": ".4s", "dtick": "D2"}
"""A logarithmic axis in seconds with ticks at 1, 2 and 5; Plotly labels it 100us, 10ms."""
MIN_TRIALS_FOR_IMPORTANCE = 8
DOTS = 2000
"""Most trials drawn as dots. Of more, every n-th is drawn, and each that was the best so far."""


def of_sweep(
    trials: Sequence[TrialPoint], winners: Sequence[WinnerRecord], summary: Mapping[str, Any], floors: Roofline
) -> dict[str, Figure | None]:
    """The figures of a sweep by name, from its trials, winners and summary; None while there is too little to show."""
    return {
        "progress": best_so_far(trials),
        "importance": importance(trials),
        "sizes": over_sizes(winners, summary.get("crossings", ()), floors),
        "inputs": inputs(summary.get("inputs", ())),
        "speedups": speedups(winners, summary.get("reference_by_workload_us", {})),
    }


def best_so_far(trials: Sequence[TrialPoint]) -> Figure | None:
    """Each regime's trials as dots and its best so far as a line; None if no trial has a latency.

    Latency is the geometric mean over the regime's workloads.
    """
    traces: list[dict[str, Any]] = []
    regimes = _by_regime(trials)
    for colour, (regime, timed) in zip(itertools.cycle(COLOURS), regimes.items(), strict=False):
        leaders = list(_leaders(timed))
        step = math.ceil(len(timed) * len(regimes) / DOTS)
        records = {t.number for t, _ in leaders}
        dots = [t for i, t in enumerate(timed) if i % step == 0 or t.number in records]
        thinned = f", 1 of {step} drawn" if step > 1 else ""
        traces.append(
            {
                "type": "scatter", "mode": "markers", "name": f"{regime or 'all sizes'}: trials{thinned}",
                "legendgroup": regime, "x": [t.number for t in dots], "y": [_latency_s(t) for t in dots],
                "text": [_hover(t) for t in dots], "hoverinfo": "text+y",
                "marker": {"color": colour, "size": 6, "opacity": 0.45},
            }
        )  # fmt: skip
        traces.append(
            {
                "type": "scatter", "mode": "lines", "name": f"{regime or 'all sizes'}: best so far",
                "legendgroup": regime, "x": [t.number for t, _ in leaders], "y": [s for _, s in leaders],
                "line": {"color": colour, "shape": "hv", "width": 2.5},
            }
        )  # fmt: skip
    if not traces:
        return None
    numbers = {
        "title": {"text": "trial"},
        "gridcolor": GRID,
        "zeroline": False,
        "tickformat": "d",
        **({"dtick": 1} if len(trials) < 12 else {}),
    }
    return _figure(traces, xaxis=numbers, yaxis=_log("latency", **SECONDS, automargin=True))


def _leaders(timed: Sequence[TrialPoint]) -> Iterable[tuple[TrialPoint, float]]:
    """The trials that were the best when they passed, each with its latency in seconds; then the last that passed."""
    passed = [t for t in timed if t.state == "PASSED"]
    best = math.inf
    for trial in passed:
        if _latency_s(trial) < best or trial is passed[-1]:
            best = min(best, _latency_s(trial))
            yield trial, best


def importance(trials: Sequence[TrialPoint]) -> Figure | None:
    """Share of the variance of log latency that each parameter explains by itself; None with too few trials."""
    traces = []
    for colour, (regime, timed) in zip(itertools.cycle(COLOURS), _by_regime(trials).items(), strict=False):
        shares = sorted(explained(timed).items(), key=lambda item: item[1])
        if shares:
            names, values = zip(*shares, strict=True)
            traces.append(
                {
                    "type": "bar", "orientation": "h", "name": regime or "all sizes", "y": names, "x": values,
                    "marker": {"color": colour},
                }
            )  # fmt: skip
    if not traces:
        return None
    axis = {
        "title": {"text": "share of the variance of log latency"},
        "tickformat": ".0%",
        "range": [0, 1],
        "gridcolor": GRID,
    }
    height = 120 + 26 * len({n for t in traces for n in t["y"]})
    return _figure(traces, height, xaxis=axis, yaxis={"automargin": True})


def explained(trials: Sequence[TrialPoint]) -> dict[str, float]:
    """Parameter -> share of the variance of the objective between its values, 0 to 1; empty with too few trials.

    Epsilon squared: corrected for the number of values, so that a parameter with a different value in each trial
    explains nothing. Effects of combinations are in none of the shares. A search that prefers some combinations mixes
    the shares of their parameters. Linear in the number of trials: forests and functional ANOVA tell more, but took
    from half a second to minutes here, and the page of a running sweep draws this again and again.

    Source: T. L. Kelley, An unbiased correlation ratio measure (1935); the first-order index of Sobol.
    """
    timed = [t for t in trials if t.objective is not None]
    total = _squares(t.objective for t in timed)
    if len(timed) < MIN_TRIALS_FOR_IMPORTANCE or not total:
        return {}
    shares = {}
    for name in timed[0].config:
        groups: dict[str, list[float]] = defaultdict(list)
        for trial in timed:
            groups[repr(trial.config.get(name))].append(trial.objective or 0.0)
        if 1 < len(groups) < len(timed):
            within = sum(map(_squares, groups.values())) / (len(timed) - len(groups))
            shares[name] = max(0.0, 1.0 - within / (total / (len(timed) - 1)))
        elif len(groups) > 1:
            shares[name] = 0.0
    return shares


def _squares(values: Iterable[float | None]) -> float:
    """Sum of squared distances from the mean."""
    known = [v for v in values if v is not None]
    mean = math.fsum(known) / max(1, len(known))
    return math.fsum((v - mean) ** 2 for v in known)


def speedups(winners: Sequence[WinnerRecord], reference: Mapping[str, float]) -> Figure | None:
    """How much faster the winner is than default and reference, per workload; None without winners."""
    rows = sorted(
        ((tuple(w.axes.values()), workload_text(w.axes, w.profile), w)
         for r in winners for w in r.workloads),
        key=lambda row: row[:2],
    )  # fmt: skip
    if not rows:
        return None
    labels = [label for _, label, _ in rows]
    over_default = [w.default_median_us / w.median_us if w.default_median_us else None for _, _, w in rows]
    over_reference = [reference[w.workload] / w.median_us if w.workload in reference else None for _, _, w in rows]
    traces = [
        {"type": "bar", "x": labels, "y": values, "name": name, "marker": {"color": colour}}
        for values, name, colour in ((over_default, "over the default", COLOURS[0]),
                                     (over_reference, "over the reference", COLOURS[1]))
        if any(v is not None for v in values)
    ]  # fmt: skip
    one = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 1, "y1": 1,
           "line": {"color": COLOURS[4], "dash": "dot"}}  # fmt: skip
    return _figure(traces, xaxis={"type": "category"}, yaxis=_log("speed-up"), shapes=[one])


def inputs(workloads: Sequence[Mapping[str, Any]]) -> Figure | None:
    """What inputs do: each list among a workload's figures as a line over rank, coloured by profile; None without one.

    Args:
        workloads: With ``axes``, ``profile`` and ``figures``, as a sweep's summary and ``tuner profile`` have them.
    """
    lists = [(w, n, v) for w in workloads for n, v in w["figures"].items() if isinstance(v, list)]
    if not lists:
        return None
    profiles = list(dict.fromkeys(w["profile"] for w, _, _ in lists))
    traces: list[dict[str, Any]] = []
    for workload, name, values in lists:
        profile = workload["profile"]
        traces.append(
            {
                "type": "scatter", "mode": "lines", "name": profile, "legendgroup": profile,
                "showlegend": all(t["legendgroup"] != profile for t in traces),
                "x": list(range(1, len(values) + 1)), "y": [v if v > 0 else None for v in values],
                "text": f"{workload_text(workload['axes'], profile)}: {name.replace('_', ' ')}", "hoverinfo": "text+y",
                "line": {"color": COLOURS[profiles.index(profile) % len(COLOURS)], "shape": "hv", "width": 1.5},
            }
        )  # fmt: skip
    titles = " and ".join(dict.fromkeys(name.replace("_", " ") for _, name, _ in lists))
    rank = {"title": {"text": "rank, the largest first"}, "gridcolor": GRID, "zeroline": False, "tickformat": "d"}
    return _figure(traces, xaxis=rank, yaxis=_log(titles, automargin=True))


def over_sizes(
    winners: Sequence[WinnerRecord],
    crossings: Sequence[Mapping[str, Any]] = (),
    floors: Roofline | None = None,
) -> Figure | None:
    """Each winner's latency over size, the default's and the roofline, with the bounds between the winners.

    Args:
        winners: Of one sweep.
        crossings: Of its summary: both winners at the sizes around each bound.
        floors: Of its workloads; drawn as a line that says where its rates come from.

    Returns:
        None without a size axis, or with one size.
    """
    axis = next((w.size_axis for w in winners if w.size_axis is not None), "")
    curves: dict[str, dict[int, float]] = {}
    for winner in winners if axis else ():
        curves.setdefault(winner.regime, {}).update(_means(winner, axis, lambda w: w.median_us))
        curves.setdefault("default", {}).update(_means(winner, axis, lambda w: w.default_median_us))
    for crossing in crossings:
        for point in crossing["curve"]:
            for side in ("lower", "upper"):
                curves.get(crossing[side], {}).setdefault(point["size"], point[f"{side}_us"])
    if sum(map(len, curves.values())) < 2 or len({size for points in curves.values() for size in points}) < 2:
        return None
    traces = []
    for colour, (name, points) in zip(itertools.cycle(COLOURS), curves.items(), strict=False):
        sizes = sorted(points)
        plain = name == "default"
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": name if plain else f"winner of {name}", "x": sizes,
                "y": [1e-6 * points[size] for size in sizes],
                "line": {"color": COLOURS[4] if plain else colour, "dash": "dot" if plain else "solid"},
            }
        )  # fmt: skip
    us = floors.us if floors is not None else {}
    least: dict[int, float] = {}
    for winner in winners:
        least.update(_means(winner, axis, lambda w: us.get(w.workload)))
    if floors is not None and least:
        traces.append(
            {
                "type": "scatter", "mode": "lines", "name": floors.label, "x": sorted(least),
                "y": [1e-6 * least[size] for size in sorted(least)],
                "line": {"color": COLOURS[4], "dash": "dash", "width": 1.5},
            }
        )  # fmt: skip
    bounds = [
        {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": w.max_size, "x1": w.max_size,
         "line": {"color": COLOURS[4], "width": 1}}
        for w in winners if w.max_size
    ]  # fmt: skip
    return _figure(traces, xaxis=_log(axis), yaxis=_log("latency", **SECONDS, automargin=True), shapes=bounds)


def _means(winner: WinnerRecord, axis: str, figure: Callable[[WinnerWorkload], float | None]) -> dict[int, float]:
    """Size -> geometric mean of a figure over the winner's workloads of that size, in microseconds."""
    by_size: dict[int, list[float]] = defaultdict(list)
    for workload in winner.workloads:
        us = figure(workload)
        if axis in workload.axes and us:
            by_size[workload.axes[axis]].append(math.log(us))
    return {size: math.exp(math.fsum(logs) / len(logs)) for size, logs in by_size.items()}


def _by_regime(trials: Iterable[TrialPoint]) -> dict[str, list[TrialPoint]]:
    """The trials that have a latency, grouped by regime and sorted by number."""
    groups: dict[str, list[TrialPoint]] = {}
    for trial in sorted(trials, key=lambda t: t.number):
        if trial.objective is not None:
            groups.setdefault(trial.regime, []).append(trial)
    return groups


def _latency_s(trial: TrialPoint) -> float:
    return 1e-6 * math.exp(trial.objective or 0.0)


def _hover(trial: TrialPoint) -> str:
    return f"trial {trial.number} {trial.state}<br>" + "<br>".join(f"{k}={v}" for k, v in trial.config.items())


def _log(title: str, **more: Any) -> dict[str, Any]:
    return {"title": {"text": title}, "type": "log", "gridcolor": GRID, **more}


def _figure(data: list[dict[str, Any]], height: int = 380, **layout: Any) -> Figure:
    """A figure in the common style; the pages replace its colours of text and grid."""
    shared = {
        "height": height,
        "margin": {"l": 60, "r": 20, "t": 20, "b": 50},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(128,128,128,0.06)",
        "font": {"color": "#7a808a", "family": "system-ui, sans-serif"},
        "legend": {"orientation": "h", "y": 1.12},
    }
    return {"data": data, "layout": {**shared, **layout}}


def samples(rows: Sequence[tuple[str, Sequence[float]]]) -> Figure | None:
    """The samples of a trial, one box per (label, samples in microseconds); None if no samples are stored."""
    boxes = [
        {"type": "box", "x": [1e-6 * us for us in values], "name": label, "boxpoints": "all", "jitter": 0.5}
        for label, values in rows
        if values
    ]
    if not boxes:
        return None
    axes = {"xaxis": _log("latency", **SECONDS), "yaxis": {"automargin": True}}
    return _figure(boxes, 100 + 34 * len(boxes), **axes, showlegend=False, margin={"l": 20, "r": 20, "t": 10, "b": 45})


def html(figure: Figure | None) -> str | None:
    """The figure as an HTML fragment, for a page that includes Plotly's script."""
    if figure is None:
        return None
    from plotly.io import to_html

    config = {"displaylogo": False, "responsive": True}
    text: str = to_html(figure, full_html=False, include_plotlyjs=False, validate=False, config=config)
    return text
