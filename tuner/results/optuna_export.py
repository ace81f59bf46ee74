"""A finished or running sweep as an Optuna storage, for optuna-dashboard: ``tuner study export``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from db.records import TrialRecord
from db.store import Store
from tuner.errors import NothingFoundError, UsageError
from tuner.files import replacing
from workers.records import Status

if TYPE_CHECKING:
    import optuna


def export_study(store: Store, sweep_id: int, out: Path) -> dict[str, int]:
    """Write one study per regime into a new SQLite file. It is a copy; our tables remain the source of truth.

    A study's value is the latency in microseconds, the geometric mean over the workloads. Trials that passed are
    COMPLETE, those that were raced out PRUNED, all others FAIL; the exact status is an attribute of the trial. Every
    parameter is categorical over the values that the regime's trials have, in rising order.

    Args:
        store: The store with the sweep.
        sweep_id: Which sweep.
        out: The file to write. It never exists half-written.

    Returns:
        Name of the study -> number of its trials.

    Raises:
        UsageError: The file exists, or its folder does not.
        NothingFoundError: The sweep has no trial.
        StoreError: There is no such sweep.
    """
    import optuna

    if out.exists():
        raise UsageError(f"{out} exists; name another file, or remove it")
    if not out.parent.is_dir():
        raise UsageError(f"there is no folder {out.parent} to write {out.name} into")
    sweep = store.sweeps.get(sweep_id)
    by_regime: dict[str, list[TrialRecord]] = {}
    for trial in store.trials.of(sweep_id, measurements=False):
        by_regime.setdefault(trial.regime, []).append(trial)
    if not by_regime:
        raise NothingFoundError(f"sweep {sweep_id} has no trial yet")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    written = {}
    with replacing(out, "the storage") as scratch:
        scratch.touch()
        storage = optuna.storages.RDBStorage(f"sqlite:///{scratch}")
        try:
            for regime, trials in by_regime.items():
                name = f"sweep {sweep_id}, {regime or 'all sizes'}"
                study = optuna.create_study(storage=storage, study_name=name, direction="minimize")
                for key in ("definition", "space", "target", "hardware"):
                    study.set_user_attr(key, getattr(sweep, key))
                study.set_user_attr("value", "latency in microseconds")
                study.add_trials(frozen_trials(trials))
                written[name] = len(trials)
        finally:
            storage.engine.dispose()
    return written


def frozen_trials(trials: Sequence[TrialRecord]) -> list[optuna.trial.FrozenTrial]:
    """Trials of one regime as Optuna's, in order."""
    import optuna

    choices: dict[str, dict[tuple[type, Any], Any]] = {}
    for trial in trials:
        for name, value in trial.config.items():
            choices.setdefault(name, {})[type(value), value] = _choice(value)
    distributions = {
        name: optuna.distributions.CategoricalDistribution(sorted(values.values(), key=_rising))
        for name, values in choices.items()
    }
    return [_frozen(trial, distributions) for trial in trials]


def _choice(value: Any) -> Any:
    """The value as Optuna's storage takes it, which has no tuples."""
    return repr(value) if isinstance(value, tuple) else value


def _rising(value: Any) -> tuple[str, Any]:
    """Numbers sorted by size, then other values sorted as text."""
    return (type(value).__name__, value if isinstance(value, int | float) else str(value))


def _frozen(trial: TrialRecord, distributions: Mapping[str, Any]) -> optuna.trial.FrozenTrial:
    import optuna

    state = {
        Status.PASSED: optuna.trial.TrialState.COMPLETE,
        Status.RACED_OUT: optuna.trial.TrialState.PRUNED,
    }.get(Status(trial.state), optuna.trial.TrialState.FAIL)
    value = None if trial.objective is None else math.exp(trial.objective)
    if state == optuna.trial.TrialState.COMPLETE and value is None:
        state = optuna.trial.TrialState.FAIL  # a COMPLETE trial must have a value
    frozen = optuna.trial.create_trial(
        state=state,
        value=value if state != optuna.trial.TrialState.FAIL else None,
        params={name: _choice(value) for name, value in trial.config.items()},
        distributions={name: distributions[name] for name in trial.config},
        user_attrs={
            "status": str(trial.state),
            "number": trial.number,
            "reason": trial.reason,
            "origin": trial.origin,
            "config_hash": trial.config_hash,
        },
    )
    frozen.datetime_start = datetime.fromtimestamp(trial.started_at)
    frozen.datetime_complete = datetime.fromtimestamp(trial.finished_at)
    return frozen
