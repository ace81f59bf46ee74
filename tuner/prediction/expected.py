"""What a space's model expects in each regime of a sweep, for its search to begin with."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

from search_spaces import SpaceError
from search_spaces.parameters import Config
from search_spaces.prediction.model import WorkloadFeatures
from search_spaces.space import SearchSpace
from tuner.search.expectation import Expect
from tuner.sweeps.regimes import Regime
from workers.devices.hardware import hardware_of
from workers.errors import DatasetError
from workers.fib.dataset import Document, Problem

_log = logging.getLogger(__name__)

LOOKED_AT = 3
"""Workloads of a regime that a config is predicted on: its smallest, a middle one and its largest."""


def features_of(problem: Problem, workload: Document) -> WorkloadFeatures:
    """What a workload is like; its sizes alone where its inputs cannot be looked at."""
    from workers.fib.made_inputs import described, filled_inputs

    axes = {str(name): int(size) for name, size in workload["axes"].items()}
    if problem.generator is None:
        return WorkloadFeatures(axes)
    try:
        figures = described(problem, workload, filled_inputs(problem, workload, "cpu"))
    except (DatasetError, SpaceError) as error:
        _log.warning(f"workload {workload['uuid']}: predicted by its size alone: {error}")
        return WorkloadFeatures(axes)
    return WorkloadFeatures(axes, {name: tuple(v) for name, v in figures.items() if isinstance(v, list | tuple)})


def expectations(
    problem: Problem, space: SearchSpace, regimes: Sequence[Regime], hardware: str
) -> Mapping[str, Expect]:
    """Regime name -> what to expect of a config there, as the objective counts it; none without a model of the space
    or figures of the hardware."""
    gpu = hardware_of(hardware)
    if space.model is None or gpu is None:
        return {}
    model, found = space.model, {}
    for regime in regimes:
        counted = [w for w in regime.workloads if regime.weights.get(w, 1.0) > 0]
        features = [features_of(problem, problem.workload(uuid)) for uuid in counted]
        looked_at = spread(features)

        def expect(config: Config, looked_at: tuple[WorkloadFeatures, ...] = looked_at) -> float:
            return sum(math.log(model.predict(config, f, gpu).us) for f in looked_at) / len(looked_at)

        if looked_at:
            found[regime.name] = expect
    return found


def spread(features: Sequence[WorkloadFeatures]) -> tuple[WorkloadFeatures, ...]:
    """A few of them from the least to the most work."""
    ordered = sorted(features, key=lambda f: (sum(map(sum, f.counts.values())), tuple(f.axes.values())))
    last = len(ordered) - 1
    picked = {round(i * last / (LOOKED_AT - 1)) for i in range(LOOKED_AT)} if ordered else set()
    return tuple(ordered[i] for i in sorted(picked))
