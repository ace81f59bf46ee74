"""The default strategy."""

from __future__ import annotations

from tuner.search.samplers._tpe import TPEStrategy


class AutoSampler(TPEStrategy):
    """Thin first version."""
