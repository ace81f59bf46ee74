"""Trials: written one by one as they finish, read to resume sweeps and for reports."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, select

from db import schema
from db.database import Database, finite
from db.errors import StoreError
from db.queries.measurements import BUILD_COLUMNS, Measurements, build_record, measured, measurement_record
from db.queries.sweeps import Sweeps
from db.records import LOG_LIMIT, FailureCount, StoredMeasurement, TrialPoint, TrialRecord

_trial, _variant, _build, _measurement = schema.trial, schema.variant, schema.build, schema.measurement


class Trials:
    """Stores and reads trials."""

    def __init__(self, database: Database, sweeps: Sweeps, measurements: Measurements) -> None:
        self._db = database
        self._sweeps = sweeps
        self._measured = measurements

    def commit(self, trial: TrialRecord) -> int:
        """Store a finished trial with its variant, build and measurements in one transaction, and return its ID.

        Committing the same trial again changes nothing. An existing measurement (same variant, workload, environment
        and method) is replaced by the new one. A measurement or a build with an ``id`` is reused.

        Raises:
            SweepBusy: Another process holds the sweep.
            StoreError: The number is taken by another result, a measurement comes without a build, a workload or an
                environment is not registered, or the database failed; nothing of the trial is kept then.
        """
        fresh = [m for m in trial.measurements if not m.id]
        if fresh and trial.build is None:
            raise StoreError(f"trial {trial.number} of sweep {trial.sweep_id} has measurements but no build")
        definition_id, space_id = self._sweeps.keys(trial.sweep_id)
        rows = self._measured.rows(definition_id, fresh)
        reused = [m.id for m in trial.measurements if m.id]

        def commit(connection: Connection) -> int:
            self._sweeps.fence(connection, trial.sweep_id)
            key = {"search_space_id": space_id, "config_hash": trial.config_hash}
            variant_id = self._db.ensure(connection, _variant, key, {"config": dict(trial.config)})
            known = self._find_trial(connection, trial, variant_id)
            if known is not None:
                return known
            build_id = self._measured.put_build(connection, variant_id, trial.build) if trial.build else None
            trial_id = self._put_trial(connection, trial, variant_id, build_id)
            links = {*self._measured.put(connection, variant_id, rows), *reused}
            if links:
                values = [{"trial_id": trial_id, "measurement_id": m} for m in sorted(links)]
                connection.execute(self._db.once("link", lambda: self._db.insert(schema.trial_measurement)), values)
            return trial_id

        return self._db.write(commit)

    def of(
        self,
        sweep_id: int,
        *,
        details: bool = False,
        measurements: bool = True,
        number: int | None = None,
        after_id: int | None = None,
        limit: int | None = None,
    ) -> list[TrialRecord]:
        """Trials of a sweep with builds and measurements, by number; with ``after_id`` in the order of their commits.

        Args:
            sweep_id: The sweep.
            details: Whether to read samples and build logs, which are most of the bytes.
            measurements: Whether to read measurements, which are most of the rows.
            number: Only the trial with this number.
            after_id: Only trials with a greater ID, which were committed later.
            limit: Most trials.
        """
        names = (*BUILD_COLUMNS, "log") if details else BUILD_COLUMNS
        query = _trials(sweep_id, names).order_by(_trial.c.number if after_id is None else _trial.c.id).limit(limit)
        if number is not None:
            query = query.where(_trial.c.number == number)
        if after_id is not None:
            query = query.where(_trial.c.id > after_id)

        def read(connection: Connection) -> tuple[Sequence[Any], Mapping[int, list[StoredMeasurement]]]:
            if not measurements:
                return connection.execute(query).all(), {}
            return connection.execute(query).all(), self._trial_measurements(connection, sweep_id, details, number)

        rows, found = self._db.fetch(read)
        return [_trial_record(row, names, tuple(found.get(row.id, ()))) for row in rows]

    def last(self, sweep_id: int, *, limit: int, but: Collection[str] = ()) -> list[TrialRecord]:
        """The last trials in a state other than ``but``, by number, with their builds and without measurements."""
        query = _trials(sweep_id, BUILD_COLUMNS).where(_trial.c.state.not_in(but))
        rows = self._db.rows(query.order_by(_trial.c.number.desc()).limit(limit))
        return [_trial_record(row, BUILD_COLUMNS, ()) for row in reversed(rows)]

    def count(self, sweep_id: int) -> Mapping[str, int]:
        """Number of trials by state."""
        return self.counts([sweep_id])[sweep_id]

    def counts(self, sweep_ids: Sequence[int]) -> Mapping[int, Mapping[str, int]]:
        """Number of trials by sweep and state."""
        query = (
            select(_trial.c.sweep_id, _trial.c.state, func.count().label("trials"))
            .where(_trial.c.sweep_id.in_(list(sweep_ids)))
            # Grouped by regime too, the order of the index, so that nothing has to be sorted.
            .group_by(_trial.c.sweep_id, _trial.c.regime, _trial.c.state)
        )
        found: dict[int, Counter[str]] = defaultdict(Counter)
        for row in self._db.rows(query):
            found[row.sweep_id][row.state] += row.trials
        # Plain ones: dataclasses.asdict makes a Counter of the items of a Counter.
        return {i: dict(found[i]) for i in sweep_ids}

    def points(self, sweep_id: int) -> list[TrialPoint]:
        """All trials of a sweep by number, without texts, builds and measurements, which are most of the bytes."""
        query = (
            select(_trial.c.id, _trial.c.number, _trial.c.regime, _trial.c.state, _trial.c.objective, _variant.c.config)
            .join(_variant, _variant.c.id == _trial.c.variant_id)
            .where(_trial.c.sweep_id == sweep_id)
            .order_by(_trial.c.number)
        )
        return [TrialPoint(*row) for row in self._db.rows(query)]

    def workloads(self, sweep_id: int) -> set[tuple[str, str, str | None, str | None]]:
        """What a sweep's trials ran on: regime, state, and a workload's uuid and content, both None if it ran on none.

        A content is empty if it is not known.
        """
        link, workload = schema.trial_measurement, schema.workload
        query = (
            select(_trial.c.regime, _trial.c.state, workload.c.uuid, workload.c.content)
            .distinct()
            .select_from(_trial)
            .outerjoin(link, link.c.trial_id == _trial.c.id)
            .outerjoin(_measurement, _measurement.c.id == link.c.measurement_id)
            .outerjoin(workload, workload.c.id == _measurement.c.workload_id)
            .where(_trial.c.sweep_id == sweep_id)
        )
        return {tuple(row) for row in self._db.rows(query)}

    def failures(self, sweep_id: int, *, not_failures: Collection[str]) -> list[FailureCount]:
        """Trials of a sweep counted by state and reason, without those in ``not_failures``; in order of the first."""
        first = func.min(_trial.c.number)
        query = (
            select(_trial.c.state, _trial.c.reason, func.count(), first)
            .where(_trial.c.sweep_id == sweep_id, _trial.c.state.not_in(list(not_failures)))
            .group_by(_trial.c.state, _trial.c.reason)
            .order_by(first)
        )
        return [FailureCount(*row) for row in self._db.rows(query)]

    def _find_trial(self, connection: Connection, trial: TrialRecord, variant_id: int) -> int | None:
        """ID of the trial if it was committed before."""
        query = self._db.once(
            "find trial",
            lambda: select(_trial).where(_trial.c.sweep_id == bindparam("sweep"), _trial.c.number == bindparam("n")),
        )
        row = connection.execute(query, {"sweep": trial.sweep_id, "n": trial.number}).first()
        if row is None:
            return None
        if (row.variant_id, row.regime, row.state) != (variant_id, trial.regime, str(trial.state)):
            raise StoreError(f"trial {trial.number} of sweep {trial.sweep_id} is already recorded with another result")
        return int(row.id)

    def _put_trial(self, connection: Connection, trial: TrialRecord, variant_id: int, build_id: int | None) -> int:
        values = {
            "sweep_id": trial.sweep_id,
            "number": trial.number,
            "variant_id": variant_id,
            "build_id": build_id,
            "regime": trial.regime,
            "state": str(trial.state),
            "objective": finite(trial.objective),
            "reason": trial.reason[-LOG_LIMIT:],
            "origin": trial.origin,
            "started_at": trial.started_at or time.time(),
            "finished_at": trial.finished_at or time.time(),
        }
        insert = self._db.once("put trial", lambda: self._db.insert(_trial).returning(_trial.c.id))
        return int(connection.execute(insert, values).scalar_one())

    def _trial_measurements(
        self, connection: Connection, sweep_id: int, details: bool, number: int | None
    ) -> Mapping[int, list[StoredMeasurement]]:
        link = schema.trial_measurement
        query = (
            measured(_measurement, details=details)
            .add_columns(link.c.trial_id, _variant.c.config_hash)
            .join(link, link.c.measurement_id == _measurement.c.id)
            .join(_trial, _trial.c.id == link.c.trial_id)
            .join(_variant, _variant.c.id == _measurement.c.variant_id)
            .where(_trial.c.sweep_id == sweep_id)
            .order_by(link.c.trial_id, link.c.measurement_id)
        )
        if number is not None:
            query = query.where(_trial.c.number == number)
        found: dict[int, list[StoredMeasurement]] = defaultdict(list)
        for row in connection.execute(query):
            found[row.trial_id].append(measurement_record(row, row.config_hash))
        return found


def _trials(sweep_id: int, build_names: tuple[str, ...]) -> Select[Any]:
    return (
        select(_trial, _variant.c.config, _variant.c.config_hash)
        .add_columns(*(_build.c[name].label(f"built_{name}") for name in build_names))
        .join(_variant, _variant.c.id == _trial.c.variant_id)
        .outerjoin(_build, _build.c.id == _trial.c.build_id)
        .where(_trial.c.sweep_id == sweep_id)
    )


def _trial_record(row: Any, build_names: tuple[str, ...], measurements: tuple[StoredMeasurement, ...]) -> TrialRecord:
    values = row._mapping
    build = None
    if row.built_id is not None:
        build = build_record({name: values[f"built_{name}"] for name in build_names}, row.config_hash)
    return TrialRecord(
        sweep_id=row.sweep_id,
        number=row.number,
        config=row.config,
        config_hash=row.config_hash,
        regime=row.regime,
        state=row.state,
        objective=row.objective,
        reason=row.reason,
        origin=row.origin,
        started_at=row.started_at,
        finished_at=row.finished_at,
        build=build,
        measurements=measurements,
        id=row.id,
    )
