"""Parallel coordinates of a sweep as SVG: one vertical axis per parameter, one line per trial.

Not drawn by Plotly: its version needs WebGL and a relaxed content security policy, and has no dark mode.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from db.records import TrialPoint
from tuner.format import microseconds

LINES = 250
"""Most trials drawn, the fastest ones; more cannot be told apart."""
WIDTH, HEIGHT, TOP, BOTTOM, SIDE = 1000, 300, 34, 26, 46
TICKS = 16
"""Most labels on one axis; of more values, evenly spread ones are labelled."""
SHADES = 8
"""Number of speed classes in the style sheet; 0 is the fastest."""


@dataclass(frozen=True)
class Axis:
    """A vertical axis: the height of each value, and the labels."""

    name: str
    x: float
    heights: Mapping[str, float]

    @property
    def ticks(self) -> list[tuple[str, float]]:
        """Labels with their heights."""
        places = list(self.heights.items())
        if len(places) <= TICKS:
            return places
        return [places[round(i * (len(places) - 1) / (TICKS - 1))] for i in range(TICKS)]


@dataclass(frozen=True)
class Stroke:
    """The line of one trial."""

    number: int
    points: str
    shade: int
    title: str


@dataclass(frozen=True)
class Drawing:
    """What the template draws, in the SVG's own units."""

    axes: tuple[Axis, ...]
    lines: tuple[Stroke, ...]
    hidden: int
    width: int = WIDTH
    height: int = HEIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def parallel_coordinates(trials: Sequence[TrialPoint]) -> Drawing | None:
    """The trials that have a latency, over the parameters that varied; None if there is nothing to compare."""
    timed = sorted((t for t in trials if t.objective is not None), key=lambda t: t.objective or 0.0)
    values = {n: _ordered({t.config.get(n) for t in timed}) for n in (timed[0].config if timed else ())}
    varied = {n: v for n, v in values.items() if len(v) > 1}
    if len(timed) < 2 or not varied:
        return None
    shown = timed[:LINES]
    latencies = [math.exp(t.objective or 0.0) for t in shown]
    axes = [Axis(name, x, _heights(varied[name])) for name, x in zip(varied, _places(len(varied) + 1), strict=False)]
    low, high = latencies[0], latencies[-1]
    ends = {microseconds(us): _y(share) for us, share in ((low, 0.0), (high, 1.0))}
    last = Axis("latency", float(WIDTH - SIDE), ends)
    lines = [
        _line(i, t, us, axes, last, (low, high), len(shown))
        for i, (t, us) in enumerate(zip(shown, latencies, strict=True))
    ]
    return Drawing((*axes, last), tuple(reversed(lines)), len(timed) - len(shown))  # the fastest is drawn last, on top


def _line(
    rank: int, trial: TrialPoint, us: float, axes: Sequence[Axis], last: Axis, span: tuple[float, float], count: int
) -> Stroke:
    points = [(a.x, a.heights[_label(trial.config.get(a.name))]) for a in axes]
    low, high = span
    share = math.log(us / low) / math.log(high / low) if high > low else 0.0
    points.append((last.x, _y(share)))
    config = ", ".join(f"{k}={v}" for k, v in trial.config.items())
    return Stroke(
        number=trial.number,
        points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points),
        shade=min(SHADES - 1, rank * SHADES // count),
        title=f"trial {trial.number}, {trial.regime or 'all sizes'}: {microseconds(us)} with {config}",
    )


def _places(count: int) -> list[float]:
    return [SIDE + i * (WIDTH - 2 * SIDE) / (count - 1) for i in range(count)]


def _heights(values: Sequence[Any]) -> dict[str, float]:
    return {_label(v): _y(1.0 - i / (len(values) - 1)) for i, v in enumerate(values)}


def _y(share: float) -> float:
    """Height of a value, from 0 (top) to 1 (bottom)."""
    return round(TOP + 12 + share * (HEIGHT - TOP - BOTTOM - 24), 1)


def _label(value: Any) -> str:
    return str(value)


def _ordered(values: set[Any]) -> list[Any]:
    numbers = all(isinstance(v, int | float) for v in values)
    return sorted(values) if numbers else sorted(values, key=str)
