"""Builds and measurements. They belong to a variant, so that later sweeps can reuse them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import Connection, Select, Table, and_, bindparam, or_, select

from db import schema
from db.database import Database, finite
from db.queries.catalog import Catalog
from db.records import FIGURES, LOG_LIMIT, RESOURCES, EarlierMeasurement, Json, StoredBuild, StoredMeasurement
from workers.records import Method, Status

_variant, _build, _measurement = schema.variant, schema.build, schema.measurement

MEASURED = ("status", *FIGURES, "conditions", "message", "measured_at")
"""The columns that measurements and finalists share, without the samples."""

BUILD_COLUMNS = ("id", "toolchain", "status", "build_s", "artifact", "figures", "built_at")
"""The columns of a build, without the log."""

_METHOD = {f.name for f in fields(Method)}


class Measurements:
    """Stores and reads builds and measurements of variants."""

    def __init__(self, database: Database, catalog: Catalog) -> None:
        self._db = database
        self._catalog = catalog

    def known(
        self, *, definition_id: int, space_id: int, config_hash: str, environment: str, method: str
    ) -> list[StoredMeasurement]:
        """Measurements of a variant by any sweep, with samples, by workload uuid.

        Only those on the content with which this store has registered the workloads.

        Args:
            definition_id: The sweep's definition; an edited one has no old measurements.
            space_id: The sweep's space; changed sources have no old measurements.
            config_hash: The variant.
            environment: Fingerprint of the environment.
            method: Hash of the method, :func:`db.records.method_hash`.
        """
        query = self._db.once("known measurements", _known_query)
        asked = {
            "space": space_id,
            "config": config_hash,
            "environment": environment,
            "method": method,
            "definition": definition_id,
        }
        rows = self._db.fetch(lambda connection: connection.execute(query, asked).all())
        same = [row for row in rows if row.workload_id == self._catalog.workload_id(definition_id, row.workload)]
        return [measurement_record(row, config_hash) for row in same]

    def all_of(self, definition_id: int, space_id: int, config_hash: str) -> list[EarlierMeasurement]:
        """All measurements of a variant, by any method in any environment, newest first."""
        query = (
            measured(_measurement, details=False)
            .add_columns(schema.workload.c.content)
            .join(_variant, _variant.c.id == _measurement.c.variant_id)
            .where(_variant.c.search_space_id == space_id, _variant.c.config_hash == config_hash)
            .where(schema.workload.c.definition_id == definition_id)
            .order_by(_measurement.c.measured_at.desc())
        )
        seen = {e.fingerprint: e for e in self._catalog.environments()}
        return [
            EarlierMeasurement(measurement_record(row, config_hash), seen[row.environment], row.content)
            for row in self._db.rows(query)
        ]

    def rows(self, definition_id: int, records: Sequence[StoredMeasurement]) -> list[dict[str, Any]]:
        """The records as rows, without the column of their owner.

        Sorted, so that two sweeps that write the same rows cannot deadlock.
        """
        rows = [
            {
                "workload_id": self._catalog.workload_id(definition_id, record.workload),
                "environment_id": self._catalog.environment_id(record.environment),
                "method_id": self._catalog.method_id(record.method),
                "status": record.status.value,
                "samples": tuple(record.samples_us),
                **{name: finite(getattr(record, name)) for name in FIGURES},
                "conditions": dict(record.conditions),
                "message": record.message[-LOG_LIMIT:],
                "measured_at": record.measured_at or time.time(),
            }
            for record in records
        ]
        return sorted(rows, key=lambda row: (row["workload_id"], row["environment_id"], row["method_id"]))

    def put(self, connection: Connection, variant_id: int, rows: list[dict[str, Any]]) -> list[int]:
        """Store measurements, replacing existing ones, and return their IDs."""
        if not rows:
            return []
        upsert = self._db.once("put measurement", self._measurement_upsert)
        return list(connection.execute(upsert, [{**row, "variant_id": variant_id} for row in rows]).scalars())

    def put_build(self, connection: Connection, variant_id: int, build: StoredBuild) -> int:
        """Store a build and return its ID.

        An existing one is replaced, except a success by a failure, or by the same artifact from the cache, which would
        lose the seconds that the build took.
        """
        if build.id:
            return build.id
        key = {"variant_id": variant_id, "toolchain": build.toolchain}
        values = {
            "status": build.status.value,
            "build_s": build.build_s,
            "artifact": build.artifact,
            **{name: _whole(build.figures, name) for name in RESOURCES},
            "figures": dict(build.figures),
            "log": build.log[-LOG_LIMIT:],
            "built_at": build.built_at or time.time(),
        }
        upsert = self._db.once("put build", self._build_upsert)
        build_id = connection.execute(upsert, {**key, **values}).scalar()
        if build_id is None:
            build_id = connection.execute(
                select(_build.c.id).where(_build.c.variant_id == variant_id, _build.c.toolchain == build.toolchain)
            ).scalar_one()
        return int(build_id)

    def _measurement_upsert(self) -> Any:
        statement = self._db.insert(_measurement)
        return statement.on_conflict_do_update(
            index_elements=["variant_id", "environment_id", "method_id", "workload_id"],
            set_={name: statement.excluded[name] for name in (*MEASURED, "samples")},
        ).returning(_measurement.c.id)

    def _build_upsert(self) -> Any:
        statement = self._db.insert(_build)
        new = statement.excluded
        replaces = or_(
            _build.c.status != Status.BUILT.value,
            and_(new.status == Status.BUILT.value, new.artifact.is_distinct_from(_build.c.artifact)),
        )
        key = ["variant_id", "toolchain"]
        changed = {column.name: new[column.name] for column in _build.columns if column.name not in ("id", *key)}
        return statement.on_conflict_do_update(index_elements=key, set_=changed, where=replaces).returning(_build.c.id)


def measured(table: Table, *, details: bool) -> Select[Any]:
    """The query for measurement records, from the table ``measurement`` or ``finalist``."""
    columns = [table.c.id, table.c.workload_id, *(table.c[name] for name in MEASURED)]
    if details:
        columns.append(table.c.samples)
    names = [
        schema.workload.c.uuid.label("workload"),
        schema.workload.c.profile,
        schema.environment.c.fingerprint.label("environment"),
        schema.method.c.body.label("method"),
    ]
    return (
        select(*columns, *names)
        .select_from(table)
        .join(schema.workload, schema.workload.c.id == table.c.workload_id)
        .join(schema.environment, schema.environment.c.id == table.c.environment_id)
        .join(schema.method, schema.method.c.id == table.c.method_id)
    )


def measurement_record(row: Any, config_hash: str) -> StoredMeasurement:
    """The record of a row of :func:`measured`."""
    values = row._mapping
    body = values["method"]
    return StoredMeasurement(
        **{
            name: values[name]
            for name in ("id", "workload", "profile", "environment", *FIGURES, "conditions", "message")
        },
        status=Status(row.status),
        samples_us=values.get("samples") or (),
        # A method stored before there were revisions has none; it must not get today's.
        method=Method(**{"revision": 0, **{name: body[name] for name in body if name in _METHOD}}),
        measured_at=row.measured_at,
        config_hash=config_hash,
    )


def build_record(values: dict[str, Any], config_hash: str) -> StoredBuild:
    """The record of a build from its columns (:data:`BUILD_COLUMNS`, and the log if it was read)."""
    return StoredBuild(**{**values, "status": Status(values["status"])}, key=config_hash)


def _known_query() -> Select[Any]:
    return (
        measured(_measurement, details=True)
        .join(_variant, _variant.c.id == _measurement.c.variant_id)
        .where(
            _variant.c.search_space_id == bindparam("space"),
            _variant.c.config_hash == bindparam("config"),
            schema.environment.c.fingerprint == bindparam("environment"),
            schema.method.c.hash == bindparam("method"),
            schema.workload.c.definition_id == bindparam("definition"),
        )
        .order_by(schema.workload.c.uuid)
    )


def _whole(figures: Json, name: str) -> int | None:
    """A figure as a whole number, None if the toolchain does not report it."""
    value = figures.get(name)
    return int(value) if isinstance(value, int | float) else None
