"""What must hold after any run, whatever was done to it. Each check gives a line for every violation."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sqlalchemy import text

from db.records import SweepState, TrialRecord, WinnerRecord
from db.store import Store
from tests.chaos.ground import STATUS_OF
from tuner.settings import SweepSettings
from tuner.sweeps.finals.guard import Guard
from tuner.sweeps.finals.ranking import rank
from workers.judge.timing.interval import median_interval

TERMINAL = {
    "PASSED", "RACED_OUT", "INCORRECT_SHAPE", "INCORRECT_NUMERICAL", "INCORRECT_DTYPE", "RUNTIME_ERROR",
    "COMPILE_ERROR", "TIMEOUT", "REJECTED", "CRASHED", "INPUTS_MODIFIED", "NOT_REPEATABLE", "WORKER_LOST",
}  # fmt: skip
GOOD = {"PASSED", "RACED_OUT"}


@dataclass(frozen=True)
class Expected:
    """What a clean run of the same sweep would have left.

    Args:
        configs: All configs of the space; the runs are long enough for all of them.
        default: The default config.
        fates: Salt -> planted misbehaviour.
        spoilt: States that a good candidate may have because its own process was killed.
        regimes: Names.
    """

    configs: tuple[Mapping[str, Any], ...]
    default: Mapping[str, Any]
    regimes: tuple[str, ...]
    fates: Mapping[int, str] = field(default_factory=dict)
    spoilt: frozenset[str] = frozenset()


def violations(store: Store, sweep_id: int, expected: Expected) -> list[str]:
    """All lines of all checks."""
    trials = store.trials.of(sweep_id, details=True)
    found = [
        *_sweep(store, sweep_id),
        *_set_of_trials(trials, expected),
        *_states(trials, expected),
        *_tables(store),
        *_objectives(trials),
        *_winners(store, sweep_id, expected),
    ]
    return found


def _sweep(store: Store, sweep_id: int) -> Iterator[str]:
    sweep = store.sweeps.get(sweep_id)
    if sweep.state != SweepState.DONE:
        yield f"the sweep is {sweep.state}"
    if sweep.owner is not None:
        yield f"the sweep is still held by {sweep.owner}"
    if sweep.finished_at is None:
        yield "the sweep has no end"


def _set_of_trials(trials: list[TrialRecord], expected: Expected) -> Iterator[str]:
    """The same as a clean run's: each config once in each regime, numbers without gaps."""
    numbers = [t.number for t in trials]
    if len(set(numbers)) != len(numbers):
        yield f"trial numbers come twice: {numbers}"
    tried = Counter((t.regime, _key(t.config)) for t in trials)
    wanted = {(r, _key(c)) for r in expected.regimes for c in expected.configs}
    yield from (f"tried {n} times: {k}" for k, n in tried.items() if n > 1)
    yield from (f"lost: {k}" for k in sorted(wanted - set(tried)))
    yield from (f"not of the space: {k}" for k in sorted(set(tried) - wanted))


def _states(trials: list[TrialRecord], expected: Expected) -> Iterator[str]:
    for trial in trials:
        fate = expected.fates.get(10 * trial.config["tens"] + trial.config["ones"])
        allowed = {STATUS_OF[fate]} if fate else GOOD
        where = f"trial {trial.number} ({fate or 'good'})"
        if trial.state not in TERMINAL:
            yield f"{where} ended as {trial.state}, which is no end"
        elif trial.state not in allowed | expected.spoilt:
            yield f"{where} ended as {trial.state}: {trial.reason[-300:]}"
        if trial.finished_at is None or trial.started_at is None:
            yield f"{where} has no moment"
        if trial.measurements and trial.build is None:
            yield f"{where} has measurements and no build"
        if trial.state in GOOD and any(not m.samples_us for m in trial.measurements):
            yield f"{where} has a measurement without samples"


def _tables(store: Store) -> Iterator[str]:
    """Over the whole database, past the store's own queries."""
    for line, query in {
        "measurement without a build of its variant": "SELECT id FROM measurement m WHERE NOT EXISTS "
        "(SELECT 1 FROM build b WHERE b.variant_id = m.variant_id)",
        "measured twice": "SELECT variant_id, workload_id, environment_id, method_id FROM measurement "
        "GROUP BY 1, 2, 3, 4 HAVING count(*) > 1",
        "trial without a state": "SELECT id FROM trial WHERE state IS NULL OR state = ''",
        "link to no trial": "SELECT trial_id FROM trial_measurement l WHERE NOT EXISTS "
        "(SELECT 1 FROM trial t WHERE t.id = l.trial_id)",
        "link to no measurement": "SELECT measurement_id FROM trial_measurement l WHERE NOT EXISTS "
        "(SELECT 1 FROM measurement m WHERE m.id = l.measurement_id)",
        "winner of no trial": "SELECT w.id FROM winner w WHERE NOT EXISTS (SELECT 1 FROM trial t "
        "WHERE t.sweep_id = w.sweep_id AND t.variant_id = w.variant_id AND t.state = 'PASSED')",
    }.items():
        with store.database.engine.connect() as connection:
            yield from (f"{line}: {tuple(row)}" for row in connection.execute(text(query)))


def _objectives(trials: list[TrialRecord]) -> Iterator[str]:
    """Medians and objectives follow from the raw samples."""
    for trial in trials:
        medians = []
        for measured in trial.measurements:
            if measured.status != "PASSED":
                continue
            median = median_interval(list(measured.samples_us)).median
            medians.append(median)
            if measured.median_us is None or not np.isclose(median, measured.median_us, rtol=1e-5):
                yield f"trial {trial.number}: median {measured.median_us} of samples with the median {median}"
        if trial.state == "PASSED":
            value = float(np.mean(np.log(medians)))
            if trial.objective is None or not np.isclose(value, trial.objective, rtol=1e-4, atol=1e-4):
                yield f"trial {trial.number}: objective {trial.objective}, from its samples {value}"


def _winners(store: Store, sweep_id: int, expected: Expected) -> Iterator[str]:
    """The stored winner is what the product's statistics say of the stored samples."""
    by_regime: dict[str, WinnerRecord] = {w.regime: w for w in store.winners.of(sweep_id)}
    trials = store.trials.of(sweep_id)
    for regime in expected.regimes:
        hashes = {t.config_hash for t in trials if t.regime == regime and t.state == "PASSED"}
        if not hashes:
            continue
        winner = by_regime.get(regime)
        if winner is None:
            yield f"regime {regime} has configs that passed and no winner"
            continue
        # A workload that moved here from a neighbour has the winner's figures alone.
        own = {m.workload for t in trials if t.regime == regime for m in t.measurements}
        workloads = {w.workload for w in winner.workloads} & own
        rounds: dict[str, dict[str, list[float]]] = {}
        for record in store.winners.finalists(sweep_id):
            if record.workload in workloads:
                rounds.setdefault(record.config_hash, {})[record.workload] = list(record.samples_us)
        if any(set(r) != workloads for r in rounds.values()):
            yield f"regime {regime}: finalists without samples of a workload"
            continue
        yield from _winner(winner, rounds, trials, expected)


def _winner(
    winner: WinnerRecord, rounds: dict[str, dict[str, list[float]]], trials: list[TrialRecord], expected: Expected
) -> Iterator[str]:
    configs = {t.config_hash: t.config for t in trials}
    default = next((h for h, c in configs.items() if _key(c) == _key(expected.default)), None)
    simplicity = {h: (sum(configs[h][n] != v for n, v in expected.default.items()), h) for h in rounds}
    least: dict[str, float] = {}
    for trial in trials:
        if trial.regime == winner.regime and trial.state == "PASSED":
            for m in trial.measurements:
                least[m.workload] = min(m.median_us or math.inf, least.get(m.workload, math.inf))
    guard = Guard(SweepSettings.model_fields["worst_factor"].default, least)
    ranking = rank(rounds, simplicity, default if default in rounds else None, looks=1, guard=guard)
    if ranking.winner != winner.config_hash:
        yield f"winner {winner.config_hash}, from the samples {ranking.winner} ({ranking.reason})"
    logs = np.mean([np.log(v) for v in rounds[winner.config_hash].values()], axis=0)
    median = median_interval(np.exp(logs).tolist()).median
    if not np.isclose(median, winner.median_us, rtol=1e-4):
        yield f"winner's median {winner.median_us}, from its samples {median}"


def _key(config: Mapping[str, Any]) -> str:
    return json.dumps(dict(config), sort_keys=True)
