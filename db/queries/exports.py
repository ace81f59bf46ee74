"""The queries for exported Solutions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, bindparam, select

from db import schema
from db.database import Database
from db.records import ExportRecord

_sweep, _export = schema.sweep, schema.export


class Exports:
    """Stores and reads exports."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def record(self, export: ExportRecord) -> int:
        """ID of the recorded export."""
        values = {
            "sweep_id": export.sweep_id,
            "solution": export.solution,
            "digest": export.digest,
            "made_from": dict(export.made_from),
            "verification": dict(export.verification),
            "content": export.content,
            "path": export.path,
            "exported_at": export.exported_at or time.time(),
        }
        statement = self._db.insert(_export).values(values).returning(_export.c.id)
        return self._db.write(lambda c: int(c.execute(statement).scalar_one()), repeat=False)

    def newest(self, definition: str | None = None) -> list[ExportRecord]:
        """Exports of a definition, or all exports, newest first, without their content."""
        query = _exports(content=False).order_by(_export.c.id.desc())
        if definition is not None:
            query = query.where(schema.definition.c.name == definition)
        return [ExportRecord(**row._mapping) for row in self._db.rows(query)]

    def get(self, export_id: int) -> ExportRecord | None:
        """One export with its content, None if there is none with this ID."""
        rows = self._db.rows(_exports(content=True).where(_export.c.id == export_id))
        return ExportRecord(**rows[0]._mapping) if rows else None

    def newest_of(self, connection: Connection, sweep_ids: Sequence[int]) -> dict[int, Any]:
        """ID and Solution of the newest export of each of these sweeps; sweeps without one are left out."""
        query = self._db.once(
            "newest exports",
            lambda: (
                select(_export.c.sweep_id, _export.c.id, _export.c.solution)
                .where(_export.c.sweep_id.in_(bindparam("sweeps", expanding=True)))
                .order_by(_export.c.id)
            ),
        )
        return {row.sweep_id: row for row in connection.execute(query, {"sweeps": sweep_ids})}


def _exports(*, content: bool) -> Select[Any]:
    columns = [c for c in _export.columns if content or c.name != "content"]
    return (
        select(*columns, schema.definition.c.name.label("definition"))
        .join(_sweep, _sweep.c.id == _export.c.sweep_id)
        .join(schema.definition, schema.definition.c.id == _sweep.c.definition_id)
    )
