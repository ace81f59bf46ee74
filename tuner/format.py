"""Figures and configs as text for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search_spaces.inputs.generator import RECORDED


def microseconds(value: float | None) -> str:
    """A latency as text: three significant digits, in us, ms or s."""
    if value is None:
        return "-"
    for limit, unit, scale in ((1e3, "us", 1.0), (1e6, "ms", 1e3), (float("inf"), "s", 1e6)):
        if value < limit:
            return f"{value / scale:.3g} {unit}"
    raise AssertionError("the last limit is infinite")


def ratio(slow_us: float | None, fast_us: float | None) -> str:
    """``slow / fast`` as the text of a speed-up."""
    return "-" if not slow_us or not fast_us else f"{slow_us / fast_us:.2f}x"


def first_line(message: str) -> str:
    """The first line of a message or log: what went wrong, before its details."""
    return next(iter(message.strip().splitlines()), "")


def workload_text(axes: Mapping[str, int], profile: str = RECORDED) -> str:
    """A workload as text: its sizes, and what its inputs look like unless they are the dataset's."""
    sizes = " ".join(f"{k}={v}" for k, v in axes.items())
    return sizes if profile in ("", RECORDED) else f"{sizes} {profile}".strip()


def config_text(config: Mapping[str, Any]) -> str:
    """A config on one line."""
    return ", ".join(f"{k}={v}" for k, v in config.items())


def changes_text(config: Mapping[str, Any], default: Mapping[str, Any]) -> str:
    """Where a config differs from the default, on one line."""
    return config_text({k: v for k, v in config.items() if default.get(k) != v}) or "the default"
