"""Stores the winners of finals as records, from which lookups, exports and reports are made."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from db.records import StoredMeasurement, WinnerRecord, WinnerWorkload
from db.store import Store
from search_spaces import SearchSpace
from tuner.sweeps.finals.crossings import Crossing, applied
from tuner.sweeps.finals.final import FinalResult
from tuner.sweeps.finals.statistics import weighted_mean
from tuner.sweeps.regimes import NEAREST_LIMIT, Regime
from workers.judge.timing.interval import MedianInterval, median_interval
from workers.records import Environment, Measurement


def overall(measured: Mapping[str, Measurement], weights: Mapping[str, float] | None = None) -> MedianInterval:
    """Median and interval, in microseconds, of the per-round weighted geometric mean over workloads of paired
    measurements."""
    logs = weighted_mean({w: np.log(m.samples_us) for w, m in measured.items()}, weights)
    return median_interval(np.exp(logs).tolist())


def winner_record(regime: Regime, final: FinalResult, size_axis: str | None, profile: str = "") -> WinnerRecord:
    """The winner of one regime with its figures from the final, beside the default's; with ``profile``, the winner on
    the workloads of that profile alone."""
    winner = final.by_profile[profile].winner if profile else final.winner
    chosen = regime.of_profile(profile) if profile else tuple(final.measurements[winner])
    won = {w: final.measurements[winner][w] for w in chosen}
    default = {w: final.measurements[final.default][w] for w in chosen} if final.default else None
    ours = overall(won, regime.weights)
    theirs = overall(default, regime.weights) if default else None
    return WinnerRecord(
        regime=regime.name,
        config_hash=winner,
        median_us=ours.median,
        low_us=ours.low,
        high_us=ours.high,
        default_median_us=theirs.median if theirs else None,
        default_low_us=theirs.low if theirs else None,
        default_high_us=theirs.high if theirs else None,
        workloads=tuple(
            WinnerWorkload(
                workload=w,
                median_us=_figure(m.median_us),
                low_us=_figure(m.low_us),
                high_us=_figure(m.high_us),
                default_median_us=default[w].median_us if default else None,
            )
            for w, m in won.items()
        ),
        size_axis=size_axis if regime.low is not None else None,
        min_size=regime.low,
        max_size=regime.bound,
        config=dict(final.configs[winner]),
        profile=profile,
    )


def with_unfit_sizes(winner: WinnerRecord, space: SearchSpace, sizes: Mapping[str, int]) -> WinnerRecord:
    """The winner with the sizes at which its space forbids its config, of all that a lookup or a table may take it for
    (:func:`tuner.results.dispatch.choose`).

    Args:
        winner: The winner.
        space: The space that was searched, with its constraints on the size.
        sizes: Workload -> size.
    """
    own = [sizes[w.workload] for w in winner.workloads if w.workload in sizes]
    if winner.size_axis is None or not own:
        return winner
    low = min(math.ceil(min(own) / NEAREST_LIMIT), winner.min_size or 0)
    high = max(math.floor(max(own) * NEAREST_LIMIT), winner.max_size or 0)
    found = space.unfit_sizes(winner.config, low, high)
    if found is None:  # such as all that are not divisible by 16: only those that were measured are known to fit
        ends = [low - 1, *sorted(set(own)), high + 1]
        found = [(a + 1, b - 1) for a, b in itertools.pairwise(ends) if a + 1 < b]
    unfit: list[tuple[int, int | None]] = [*found]
    if unfit and unfit[-1][1] == high:
        unfit[-1] = (unfit[-1][0], None)
    return replace(winner, unfit_sizes=tuple(unfit))


def _figure(value: float | None) -> float:
    assert value is not None, "a final's measurement always has a median"
    return value


def commit(
    store: Store,
    sweep_id: int,
    regimes: Mapping[str, Regime],
    finals: Mapping[str, FinalResult],
    environment: Environment,
    space: SearchSpace,
    crossings: Sequence[Crossing] = (),
) -> list[WinnerRecord]:
    """Store the finals' samples and the winners, replacing those of an earlier process of the sweep; the winners of
    single profiles are stored too, within the regimes' own bounds, and not returned.

    Returns:
        The winners as the store has them: with what their workloads are called there, sizes and profiles.
    """
    records = []
    for name, final in finals.items():
        measurements = [
            StoredMeasurement.of(m, config_hash=config_hash, environment=environment.fingerprint)
            for config_hash, by_workload in final.measurements.items()
            for m in by_workload.values()
        ]
        store.winners.commit_comparison(sweep_id, measurements)
        records.append(winner_record(regimes[name], final, space.size_axis))
    sizes = {workload: size for regime in regimes.values() for workload, size in regime.sizes.items()}
    records = [with_unfit_sizes(w, space, sizes) for w in applied(records, crossings)]
    alone = [
        with_unfit_sizes(winner_record(regimes[name], final, space.size_axis, profile), space, sizes)
        for name, final in finals.items()
        for profile in final.by_profile
    ]
    store.winners.set(sweep_id, [*records, *alone])
    return store.winners.of(sweep_id)
