"""Sweeps: their life from creation to end, and which process may write their results."""

from __future__ import annotations

import time
from dataclasses import fields
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, or_, select, update

from db import schema
from db.database import Database
from db.errors import NoSuchSweep, SweepBusy
from db.records import Json, SweepRecord, SweepState

_sweep = schema.sweep


class Sweeps:
    """Stores and reads sweeps.

    A sweep is written by one process at a time, the one that holds its claim. The store remembers the claims made
    through it. Every write of a result checks the claim in the same transaction and counts as a heartbeat, so a process
    whose sweep was taken over can no longer write.
    """

    def __init__(self, database: Database) -> None:
        self._db = database
        self._claims: dict[int, str] = {}
        self._keys: dict[int, tuple[int, int]] = {}

    def create(self, sweep: SweepRecord) -> int:
        """Create a RUNNING sweep, claimed for ``sweep.owner`` if that is given, and return its ID."""
        values = {
            "definition_id": sweep.definition_id,
            "search_space_id": sweep.space_id,
            "environment_id": sweep.environment_id,
            "seed": sweep.seed,
            "settings": dict(sweep.settings),
            "budget_s": sweep.budget_s,
            "max_trials": sweep.max_trials,
            "host": sweep.host,
            "state": SweepState.RUNNING.value,
            "summary": dict(sweep.summary),
            "started_at": sweep.started_at or time.time(),
            "owner": sweep.owner,
            "ticket": sweep.ticket,
        }

        def create(connection: Connection) -> int:
            statement = self._db.insert(_sweep).values(**values, heartbeat_at=self._db.now()).returning(_sweep.c.id)
            return int(connection.execute(statement).scalar_one())

        sweep_id = self._db.write(create, repeat=False)
        if sweep.owner:
            self._claims[sweep_id] = sweep.owner
        return sweep_id

    def claim(self, sweep_id: int, owner: str, stale_after_s: float, *, settings: Json | None = None) -> None:
        """Make this store the only writer of the sweep and set it RUNNING.

        Args:
            sweep_id: The sweep. Finished sweeps can be claimed too, to continue them.
            owner: Name of the process, unique to it, such as host, pid and start time.
            stale_after_s: The owner counts as dead if its heartbeat is older than this, or that far in the future after
                a clock jump.
            settings: New settings, None if nothing has changed.

        Raises:
            SweepBusy: A process that is alive holds it.
            StoreError: There is no such sweep.
        """

        def claim(connection: Connection) -> None:
            silence_s = func.abs(self._db.now() - _sweep.c.heartbeat_at)
            free = or_(_sweep.c.owner.is_(None), _sweep.c.owner == owner, silence_s > stale_after_s)
            values: dict[str, Any] = {"owner": owner, "heartbeat_at": self._db.now(), "state": SweepState.RUNNING.value}
            values["stop_requested_at"] = None
            if settings is not None:
                limit = settings.get("max_trials")
                values |= {
                    "settings": dict(settings),
                    "budget_s": settings.get("budget_s"),
                    "max_trials": limit if isinstance(limit, int) else None,
                }
            taken = connection.execute(update(_sweep).where(_sweep.c.id == sweep_id, free).values(values))
            if taken.rowcount == 0:
                holder = self._owner(connection, sweep_id)
                raise SweepBusy(f"sweep {sweep_id} is running, held by {holder}; stop that process first, or wait")

        self._db.write(claim)
        self._claims[sweep_id] = owner

    def holds(self, sweep_id: int) -> bool:
        """Whether this store has claimed the sweep and not finished it since."""
        return sweep_id in self._claims

    def measures_on(self, sweep_id: int, environment_id: int) -> None:
        """Record where the sweep runs, once its workers are up; a resumed sweep keeps where it was started.

        Raises:
            SweepBusy: Another process holds the sweep.
        """

        def put(connection: Connection) -> None:
            self.fence(connection, sweep_id)
            unknown = (_sweep.c.id == sweep_id) & _sweep.c.environment_id.is_(None)
            connection.execute(update(_sweep).where(unknown).values(environment_id=environment_id))

        self._db.write(put)

    def heartbeat(self, sweep_id: int) -> None:
        """Record that the sweep's process is alive; needed only if nothing is committed for a while.

        Raises:
            SweepBusy: Another process has taken the sweep over.
        """
        self._db.write(lambda c: self.fence(c, sweep_id))

    def finish(self, sweep_id: int, state: str, summary: Json) -> None:
        """End the sweep as DONE, INTERRUPTED or FAILED and release its claim.

        Raises:
            SweepBusy: Another process holds the sweep.
        """
        final = SweepState(state)
        if final is SweepState.RUNNING:
            raise ValueError("a sweep cannot finish as RUNNING")

        def finish(connection: Connection) -> None:
            if self._already_finished(connection, sweep_id, final):
                return
            self.fence(connection, sweep_id)
            values = {"state": final.value, "summary": dict(summary), "finished_at": time.time()}
            connection.execute(
                update(_sweep).where(_sweep.c.id == sweep_id).values(**values, owner=None, heartbeat_at=None)
            )

        self._db.write(finish)
        self._claims.pop(sweep_id, None)

    def get(self, sweep_id: int) -> SweepRecord:
        """The sweep with the names behind its IDs.

        Raises:
            StoreError: There is no such sweep.
        """
        if sweep_id.bit_length() > 63:  # more than a database has numbers for
            raise NoSuchSweep(f"there is no sweep {sweep_id}")
        rows = self._db.rows(_sweeps().where(_sweep.c.id == sweep_id))
        if not rows:
            raise NoSuchSweep(f"there is no sweep {sweep_id}")
        return SweepRecord(**rows[0]._mapping)

    def newest(self, limit: int = 50, *, definition: str | None = None, before: int | None = None) -> list[SweepRecord]:
        """Sweeps, newest first; only those with an ID below ``before``, if that is given."""
        query = _sweeps().order_by(_sweep.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(_sweep.c.id < before)
        if definition is not None:
            query = query.where(schema.definition.c.name == definition)
        return [SweepRecord(**row._mapping) for row in self._db.rows(query)]

    def of_ticket(self, ticket: str) -> int | None:
        """ID of the sweep that was created with this ticket, None if it does not exist yet."""
        rows = self._db.rows(select(_sweep.c.id).where(_sweep.c.ticket == ticket))
        return rows[0].id if rows else None

    def request_stop(self, sweep_id: int) -> bool:
        """Ask the process that holds the sweep to stop; False if none does. A resume clears the request."""
        asked = (
            update(_sweep)
            .where(_sweep.c.id == sweep_id, _sweep.c.owner.is_not(None))
            .values(stop_requested_at=func.coalesce(_sweep.c.stop_requested_at, time.time()))
        )
        return self._db.write(lambda c: c.execute(asked).rowcount > 0)

    def stop_requested(self, sweep_id: int) -> bool:
        """Whether the sweep was asked to stop."""
        rows = self._db.rows(select(_sweep.c.stop_requested_at).where(_sweep.c.id == sweep_id))
        return bool(rows) and rows[0].stop_requested_at is not None

    def states(self) -> dict[str, int]:
        """Number of sweeps by state."""
        return {row[0]: row[1] for row in self._db.rows(select(_sweep.c.state, func.count()).group_by(_sweep.c.state))}

    def _already_finished(self, connection: Connection, sweep_id: int, state: SweepState) -> bool:
        """Whether this call was committed before and only its answer was lost."""
        row = connection.execute(select(_sweep.c.owner, _sweep.c.state).where(_sweep.c.id == sweep_id)).first()
        return row is not None and sweep_id in self._claims and row.owner is None and row.state == state

    def keys(self, sweep_id: int) -> tuple[int, int]:
        """IDs of the sweep's definition and search space."""
        if sweep_id not in self._keys:
            record = self.get(sweep_id)
            self._keys[sweep_id] = (record.definition_id, record.space_id)
        return self._keys[sweep_id]

    def fence(self, connection: Connection, sweep_id: int) -> None:
        """Refresh the heartbeat and check that this store may still write the sweep's results.

        Raises:
            SweepBusy: Another process holds the sweep.
            StoreError: There is no such sweep.
        """
        mine = self._claims.get(sweep_id)
        statement = self._db.once(
            "fence",
            lambda: (
                update(_sweep)
                .where(_sweep.c.id == bindparam("sweep"), _sweep.c.owner.is_not_distinct_from(bindparam("mine")))
                .values(heartbeat_at=self._db.now())
            ),
        )
        if connection.execute(statement, {"sweep": sweep_id, "mine": mine}).rowcount == 0:
            owner = self._owner(connection, sweep_id)
            verb = "has been taken over" if mine else "is held"
            raise SweepBusy(f"sweep {sweep_id} {verb} by {owner or 'another process'}; nothing was written")

    def _owner(self, connection: Connection, sweep_id: int) -> str | None:
        row = connection.execute(select(_sweep.c.owner).where(_sweep.c.id == sweep_id)).first()
        if row is None:
            raise NoSuchSweep(f"there is no sweep {sweep_id}")
        return row.owner


def _sweeps() -> Select[Any]:
    names = {
        "definition": schema.definition.c.name,
        "space": schema.search_space.c.name,
        "target": schema.search_space.c.target,
        "space_fingerprint": schema.search_space.c.fingerprint,
        "hardware": func.coalesce(schema.environment.c.hardware, ""),
        "space_id": _sweep.c.search_space_id,
    }
    columns = [names[f.name].label(f.name) if f.name in names else _sweep.c[f.name] for f in fields(SweepRecord)]
    return (
        select(*columns)
        .join_from(_sweep, schema.definition)
        .join(schema.search_space)
        .outerjoin(schema.environment, schema.environment.c.id == _sweep.c.environment_id)
    )
