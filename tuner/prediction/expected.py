"""What a space's model expects in each regime of a sweep, for its search to begin with, and of its winners."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from db.records import WinnerRecord
from search_spaces.parameters import Config
from search_spaces.prediction.model import WorkloadFeatures
from search_spaces.space import SearchSpace
from tuner.search.expectation import Expect
from tuner.sweeps.regimes import Regime
from workers.devices.hardware import hardware_of

_log = logging.getLogger(__name__)

LOOKED_AT = 3
"""Workloads of a regime that a config is predicted on: its smallest, a middle one and its largest."""


def features(axes: Mapping[str, Any], figures: Mapping[str, Any]) -> WorkloadFeatures:
    """What a workload is like, from the figures of its space's input generator (:class:`workers.records.Prepared`, the
    ``inputs`` of a sweep's summary, ``tuner profile``)."""
    lists = {str(name): tuple(value) for name, value in figures.items() if isinstance(value, list | tuple)}
    return WorkloadFeatures({str(name): int(size) for name, size in axes.items()}, lists)


def expectations(
    space: SearchSpace, regimes: Sequence[Regime], like: Mapping[str, WorkloadFeatures], hardware: str
) -> Mapping[str, Expect]:
    """Regime name -> what to expect of a config there, as the objective counts it; none without a model of the space
    or figures of the hardware.

    Args:
        space: The space.
        regimes: Its regimes.
        like: Workload uuid -> what it is like.
        hardware: As the environment records it.
    """
    gpu = hardware_of(hardware)
    if space.model is None or gpu is None:
        return {}
    model, found = space.model, {}
    for regime in regimes:
        counted = [w for w in regime.workloads if regime.weights.get(w, 1.0) > 0 and w in like]
        looked_at = spread([like[w] for w in counted])

        def expect(config: Config, looked_at: tuple[WorkloadFeatures, ...] = looked_at) -> float:
            return sum(math.log(model.predict(config, f, gpu).us) for f in looked_at) / len(looked_at)

        if looked_at:
            found[regime.name] = expect
    return found


def of_winners(
    space: SearchSpace, winners: Iterable[WinnerRecord], like: Mapping[str, WorkloadFeatures], hardware: str
) -> dict[str, dict[str, Any]]:
    """Workload -> what its winner was expected to take, and what bounds it: for a sweep's summary. Empty where nothing
    is expected."""
    gpu = hardware_of(hardware)
    if space.model is None or gpu is None:
        return {}
    out: dict[str, dict[str, Any]] = {}
    for winner in winners:
        for row in winner.workloads:
            if row.workload in like:
                try:
                    said = space.model.predict(dict(winner.config), like[row.workload], gpu)
                    out[row.workload] = {"us": said.us, "bound": said.bound, "bound_us": said.bound_us}
                except Exception as error:  # the sweep's results do not hang on a model
                    _log.warning(f"the space's model says nothing of a winner: {type(error).__name__}: {error}")
                    return {}
    return out


def spread(features: Sequence[WorkloadFeatures]) -> tuple[WorkloadFeatures, ...]:
    """A few of them from the least to the most work."""
    ordered = sorted(features, key=lambda f: (sum(map(sum, f.counts.values())), tuple(f.axes.values())))
    last = len(ordered) - 1
    picked = {round(i * last / (LOOKED_AT - 1)) for i in range(LOOKED_AT)} if ordered else set()
    return tuple(ordered[i] for i in sorted(picked))
