"""The benchmark's best-so-far curves as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_COLOURS = ("#1f6fb4", "#d1495b", "#6b8f3c", "#8d5a97", "#e08e2b", "#4a4a4a")


def draw(curves: Mapping[str, Mapping[str, NDArray[np.float64]]], path: Path) -> None:
    """Write a panel per space: median and quartiles over seeds of the best so far over the optimum.

    Args:
        curves: Space -> strategy -> array of shape [seeds, evaluations].
        path: The page; plotly's script is inside it, so that it opens without a network.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    columns = min(2, len(curves))
    rows = -(-len(curves) // columns)
    figure = make_subplots(rows=rows, cols=columns, subplot_titles=list(curves))
    for i, by_strategy in enumerate(curves.values()):
        place = {"row": i // columns + 1, "col": i % columns + 1}
        for k, (strategy, runs) in enumerate(by_strategy.items()):
            low, middle, high = ((q - 1) * 100 for q in np.percentile(runs, (25, 50, 75), axis=0))
            x = np.arange(1, runs.shape[1] + 1)
            colour = _COLOURS[k % len(_COLOURS)]
            band = go.Scatter(
                x=np.concatenate([x, x[::-1]]),
                y=np.concatenate([high, low[::-1]]),
                fill="toself",
                fillcolor=colour,
                opacity=0.15,
                line={"width": 0},
                hoverinfo="skip",
                showlegend=False,
                legendgroup=strategy,
            )
            line = go.Scatter(
                x=x, y=middle, name=strategy, legendgroup=strategy, showlegend=i == 0, line={"color": colour}
            )
            figure.add_trace(band, **place)
            figure.add_trace(line, **place)
    figure.update_xaxes(title_text="evaluations")
    figure.update_yaxes(title_text="above the optimum, %", rangemode="tozero", range=[0, 60])
    figure.update_layout(
        height=380 * rows, template="plotly_white", title="Best so far: median and quartiles over seeds"
    )
    figure.write_html(path, include_plotlyjs=True)
