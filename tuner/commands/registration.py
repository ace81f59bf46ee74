"""A sweep's row in the database: stored before its workers start, completed when they are up, and ended in any case."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from db.records import SweepRecord, SweepState
from db.store import Store
from search_spaces import SearchSpace
from tuner.errors import UsageError
from tuner.interrupts import is_silent_interrupt
from tuner.results.status import CLAIM_STALE_S
from tuner.settings import SweepSettings
from tuner.sweeps.regimes import Regime
from tuner.sweeps.setup import Setup
from tuner.sweeps.start.earlier_trials import check_workloads
from workers.fib.dataset import profile_of
from workers.records import Environment


@contextmanager
def recorded_end(store: Store, sweep_id: int, command: str) -> Iterator[None]:
    """Record in the sweep's state if what happens in this context is interrupted or fails, unless the sweep is not held
    by this process: not yet, or no longer, as it has ended.

    Args:
        store: Where the sweep is.
        sweep_id: The sweep.
        command: What goes on with it; interrupts that say nothing yet say this.
    """
    try:
        yield
    except BaseException as error:
        is_stop = isinstance(error, KeyboardInterrupt) or is_silent_interrupt(error)
        if store.sweeps.holds(sweep_id):
            summary = {} if is_stop else failure(type(error).__name__, str(error))
            store.sweeps.finish(sweep_id, SweepState.INTERRUPTED if is_stop else SweepState.FAILED, summary)
        if not is_silent_interrupt(error):
            raise
        raise KeyboardInterrupt(_way_on(store, sweep_id, command)) from None


def _way_on(store: Store, sweep_id: int, command: str) -> str:
    if store.sweeps.get(sweep_id).state == SweepState.DONE:
        return f"sweep {sweep_id} is done; `tuner status {sweep_id}` shows it"
    begun = "" if store.trials.count(sweep_id) else f"sweep {sweep_id} has no trial yet; "
    return f"{begun}go on with: {command}"


def failure(kind: str, details: str) -> dict[str, str]:
    """Why a sweep failed, for its summary. The service's pages show the kind alone: details may name files."""
    return {"error_kind": kind, "error": f"{kind}: {details}"}


def register(store: Store, setup: Setup, space: SearchSpace, ticket: str | None) -> int:
    """Store a new sweep and claim it for this process. Workloads and environment are not known before workers are up,
    see :func:`begin`."""
    settings = setup.settings
    return store.sweeps.create(
        SweepRecord(
            definition_id=_definition_id(store, setup),
            space_id=store.catalog.register_space(space.name, space.target, space.fingerprint),
            seed=settings.seed,
            settings=_stored(settings),
            budget_s=settings.budget_s,
            max_trials=None if settings.max_trials == "auto" else settings.max_trials,
            host=socket.gethostname(),
            owner=_owner(),
            ticket=ticket,
        )
    )


def begin(
    store: Store,
    sweep_id: int,
    setup: Setup,
    space: SearchSpace,
    regimes: tuple[Regime, ...],
    environment: Environment,
) -> None:
    """Store what the sweep is to run on; one that is resumed is claimed for this process here.

    Raises:
        UsageError: It has trials on another definition, or on other workloads.
        SweepBusy: Another process holds it.
    """
    is_new = store.sweeps.holds(sweep_id)
    environment_id = store.catalog.register_environment(environment)
    definition_id = _definition_id(store, setup)
    contents = {w["uuid"]: setup.problem.content(w["uuid"]) for w in setup.problem.workloads}
    if not is_new:
        check_workloads(sweep_id, store.trials.workloads(sweep_id), regimes, contents)
    for workload in setup.problem.workloads:
        uuid, root, profile = workload["uuid"], str(setup.dataset.root), profile_of(workload)
        store.catalog.register_workload(definition_id, uuid, workload["axes"], root, contents[uuid], profile)
    if not is_new:
        store.catalog.register_space(space.name, space.target, space.fingerprint)
        if store.sweeps.get(sweep_id).definition_id != definition_id:
            raise UsageError(
                f"sweep {sweep_id} is about another version of definition {setup.problem.name} than the one in "
                f"{setup.dataset.root}; start a new sweep"
            )
        store.sweeps.claim(sweep_id, _owner(), CLAIM_STALE_S, settings=_stored(setup.settings))
    store.sweeps.measures_on(sweep_id, environment_id)


def _definition_id(store: Store, setup: Setup) -> int:
    definition = setup.problem.definition
    return store.catalog.register_definition(definition["name"], definition["op_type"], definition)


def _owner() -> str:
    """This process, by a name that no other has."""
    return f"{socket.gethostname()}:{os.getpid()}:{time.time():.3f}"


def _stored(settings: SweepSettings) -> dict[str, Any]:
    """The part of the settings that is stored: what belongs to the sweep and not to this machine."""
    return settings.model_dump(mode="json", exclude={"db", "cache_dir", "ray_address"})
