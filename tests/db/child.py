"""Other processes for the store's tests: ``child.py commit|claim|stop_at URL SWEEP ...``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from conftest import Scene  # type: ignore[import-not-found]  # noqa: E402
from sqlalchemy import event  # noqa: E402

from db.errors import SweepBusy  # noqa: E402
from db.store import Store  # noqa: E402


def commit(store: Store, sweep_id: int, count: int) -> None:
    """Commits trials of the same configs as every other process."""
    scene = Scene(store)
    for number in range(count):
        store.trials.commit(scene.trial(sweep_id, number))


def claim(store: Store, sweep_id: int, owner: int) -> None:
    """Claims the sweep when told to, says whether it got it, and stays."""
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        store.sweeps.claim(sweep_id, f"process {owner}", 3600.0)
        print("mine", flush=True)
    except SweepBusy:
        print("busy", flush=True)
    sys.stdin.readline()


def stop_at(store: Store, sweep_id: int, statement: int) -> None:
    """Commits trial 1 and stops for ever after so many statements of its transaction."""
    scene = Scene(store)
    trial = scene.trial(sweep_id, 1)
    store.measurements.rows(scene.definition_id, trial.measurements)  # so that only the transaction is counted
    store.sweeps.keys(sweep_id)
    seen = 0

    @event.listens_for(store.database.engine, "after_cursor_execute")
    def _stop(*_arguments: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == statement:
            print("stopped", flush=True)
            sys.stdin.read()

    store.trials.commit(trial)
    print("never stopped", flush=True)


if __name__ == "__main__":
    action, url, sweep, number = sys.argv[1:]
    {"commit": commit, "claim": claim, "stop_at": stop_at}[action](Store.open(url), int(sweep), int(number))
