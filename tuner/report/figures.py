"""The plots of a sweep, for the report file and for the pages of the service."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from db.records import TrialRecord, WinnerRecord

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

COLOURS = ("#3b6fd4", "#d9822b", "#2b9a66", "#b0499b", "#8a8f98")
MIN_TRIALS_FOR_IMPORTANCE = 8


def best_so_far(trials: Sequence[TrialRecord]) -> Figure:
    """Each regime's trials as dots, its best so far as a line. Latency is the geometric mean over its workloads."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for colour, (regime, group) in zip(_cycle(), _by_regime(trials).items(), strict=False):
        timed = [t for t in group if t.objective is not None]
        values = [math.exp(t.objective) for t in timed if t.objective is not None]
        numbers = [t.number for t in timed]
        best: list[float] = []
        passed: list[int] = []
        for trial, value in zip(timed, values, strict=True):
            if trial.state == "PASSED":
                best.append(min(value, best[-1]) if best else value)
                passed.append(trial.number)
        hover = [
            f"trial {t.number} {t.state}<br>" + "<br>".join(f"{k}={v}" for k, v in t.config.items()) for t in timed
        ]
        figure.add_trace(
            go.Scatter(
                x=numbers, y=values, mode="markers", name=f"{regime}: trials", text=hover, hoverinfo="text+y",
                marker={"color": colour, "size": 6, "opacity": 0.45}, legendgroup=regime,
            )
        )  # fmt: skip
        figure.add_trace(
            go.Scatter(
                x=passed, y=best, mode="lines", name=f"{regime}: best so far", legendgroup=regime,
                line={"color": colour, "shape": "hv", "width": 2.5},
            )
        )  # fmt: skip
    figure.update_xaxes(title="trial")
    figure.update_yaxes(title="latency (us)", type="log")
    return _styled(figure)


def importance(trials: Sequence[TrialRecord]) -> Figure | None:
    """Share of the variance of log latency that a forest explains by each parameter; None with too few trials."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for colour, (regime, group) in zip(_cycle(), _by_regime(trials).items(), strict=False):
        shares = _importances([t for t in group if t.objective is not None])
        if shares:
            names = list(shares)[::-1]
            figure.add_trace(
                go.Bar(y=names, x=[shares[n] for n in names], orientation="h", name=regime, marker={"color": colour})
            )
    if not figure.data:
        return None
    figure.update_xaxes(title="share of the explained variance of log latency", tickformat=".0%")
    return _styled(figure, height=120 + 26 * len({n for t in figure.data for n in t.y}))


def _importances(trials: Sequence[TrialRecord]) -> dict[str, float]:
    """Mean decrease of impurity over the parameters that varied.

    Not fANOVA, which took 10 s for 1000 trials of 10 parameters, and 30 times less this way; a running sweep's page
    asks for it again and again. Parameters with many values are flattered a little.
    """
    import optuna

    choices = {n: sorted({t.config[n] for t in trials}, key=repr) for n in (trials[0].config if trials else ())}
    varied: dict[str, optuna.distributions.BaseDistribution] = {
        n: optuna.distributions.CategoricalDistribution(v) for n, v in choices.items() if len(v) > 1
    }
    values = {t.objective for t in trials}
    if len(trials) < MIN_TRIALS_FOR_IMPORTANCE or not varied or len(values) < 2:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    for trial in trials:
        params = {n: trial.config[n] for n in varied}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=varied, value=trial.objective))
    evaluator = optuna.importance.MeanDecreaseImpurityImportanceEvaluator(seed=0)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def speedups(winners: Sequence[WinnerRecord], reference: Mapping[str, float]) -> Figure | None:
    """How much faster the winner is than default and reference, per workload; None without winners."""
    import plotly.graph_objects as go

    rows = sorted(
        (
            (tuple(w.axes.values()), " ".join(f"{k}={v}" for k, v in w.axes.items()), w)
            for r in winners
            for w in r.workloads
        ),
        key=lambda row: row[:2],
    )
    if not rows:
        return None
    labels = [label for _, label, _ in rows]
    figure = go.Figure()
    over_default = [w.default_median_us / w.median_us if w.default_median_us else None for _, _, w in rows]
    over_reference = [reference[w.workload] / w.median_us if w.workload in reference else None for _, _, w in rows]
    figure.add_trace(go.Bar(x=labels, y=over_default, name="over the default", marker={"color": COLOURS[0]}))
    figure.add_trace(go.Bar(x=labels, y=over_reference, name="over the reference", marker={"color": COLOURS[1]}))
    figure.add_hline(y=1, line={"color": COLOURS[4], "dash": "dot"})
    figure.update_yaxes(title="speed-up", type="log")
    return _styled(figure)


def _by_regime(trials: Sequence[TrialRecord]) -> dict[str, list[TrialRecord]]:
    groups: dict[str, list[TrialRecord]] = {}
    for trial in sorted(trials, key=lambda t: t.number):
        groups.setdefault(trial.regime, []).append(trial)
    return groups


def _cycle() -> Any:
    import itertools

    return itertools.cycle(COLOURS)


def _styled(figure: Figure, height: int = 380) -> Figure:
    figure.update_layout(
        height=height,
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(128,128,128,0.06)",
        font={"color": "#7a808a", "family": "system-ui, sans-serif"},
        legend={"orientation": "h", "y": 1.12},
    )
    return figure


def html(figure: Figure | None) -> str | None:
    """The figure as an HTML fragment, for a page that has Plotly's script."""
    if figure is None:
        return None
    text: str = figure.to_html(
        full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True}
    )
    return text
