"""Lookups over all sweeps: the best configs of a definition, and configs to start a related search from."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, select

from db import schema
from db.database import Database
from db.queries.exports import Exports
from db.queries.winners import Winners, winner_columns, winner_record
from db.records import BestRow, RelatedConfig, SweepState, WinnerWorkload
from workers.records import Environment

_sweep, _winner, _variant, _export = schema.sweep, schema.winner, schema.variant, schema.export

_ENVIRONMENT = tuple(f.name for f in fields(Environment))


class Lookups:
    """Answers questions over all sweeps."""

    def __init__(self, database: Database, winners: Winners, exports: Exports) -> None:
        self._db = database
        self._winners = winners
        self._exports = exports

    def rows(self, definition: str, *, hardware: str | None = None, target: str | None = None) -> list[BestRow]:
        """The winner of the newest finished sweep for each (hardware, target, regime, profile), newest first.

        Args:
            definition: Name of the definition.
            hardware: Only this model, in upper or lower case.
            target: Only this target.
        """

        query = self._db.once(
            f"best rows {hardware is not None} {target is not None}",
            lambda: _best_query(by_hardware=hardware is not None, by_target=target is not None),
        )
        given = {"definition": definition, "hardware": hardware and hardware.lower(), "target": target}
        asked = {name: value for name, value in given.items() if value is not None}

        def read(connection: Connection) -> list[BestRow]:
            rows = connection.execute(query, asked).all()
            workloads = self._winners.workloads(connection, [row.winner_id for row in rows])
            exports = self._exports.newest_of(connection, [row.sweep_id for row in rows])
            return [_best_row(row, workloads[row.winner_id], exports.get(row.sweep_id)) for row in rows]

        return self._db.fetch(read)

    def stamp(self, definition: str) -> tuple[Any, ...]:
        """A fingerprint that changes whenever :meth:`rows` of the definition would change; twenty times cheaper.

        Rows depend on sweeps that have ended, their winners and their exports. Winners are replaced as a whole, exports
        are only added, and the rest of a row never changes. Read it before the rows: if it is the same as last time,
        the rows of last time are still valid.
        """
        query = self._db.once("best stamp", _stamp_query)
        (row,) = self._db.glance(query, {"definition": definition})
        return tuple(row)

    def related(
        self, space: str, *, definition: str, hardware: str, exclude_sweep: int | None = None, limit: int = 10
    ) -> list[RelatedConfig]:
        """Distinct winning configs of the same space family, to start a search from.

        Those of the same definition come first, then those of the same hardware, then the newest.

        Args:
            space: Name of the family, of any sources and target.
            definition: The definition of the new search.
            hardware: The hardware of the new search.
            exclude_sweep: The new sweep itself.
            limit: Most configs.
        """
        query = (
            select(
                _variant.c.config,
                _variant.c.config_hash,
                schema.definition.c.name.label("definition"),
                schema.environment.c.hardware,
                schema.search_space.c.target,
                _winner.c.regime,
                _winner.c.min_size,
                _winner.c.max_size,
                _winner.c.median_us,
                _winner.c.sweep_id,
            )
            .select_from(_joined(details=True))
            .where(schema.search_space.c.name == space, _sweep.c.finished_at.is_not(None))
            .order_by(_sweep.c.finished_at.desc(), _winner.c.id)
            .limit(50 * limit)
        )
        rows = [row for row in self._db.rows(query) if row.sweep_id != exclude_sweep]
        rows.sort(key=lambda row: (row.definition != definition, row.hardware != hardware))
        distinct: dict[str, Any] = {}
        for row in rows:
            distinct.setdefault(row.config_hash, row)
        names = (
            "config", "definition", "hardware", "target", "regime", "min_size", "max_size", "median_us", "sweep_id",
        )  # fmt: skip
        return [RelatedConfig(**{n: row._mapping[n] for n in names}) for row in list(distinct.values())[:limit]]

    def swept(self) -> list[tuple[str, str]]:
        """Definitions with a finished sweep and the hardware it ran on, by name."""
        definition, environment = schema.definition, schema.environment
        query = (
            select(definition.c.name, environment.c.hardware)
            .distinct()
            .join_from(_sweep, definition)
            .join(environment, environment.c.id == _sweep.c.environment_id)
            .where(_sweep.c.finished_at.is_not(None))
            .order_by(definition.c.name, environment.c.hardware)
        )
        return [(row[0], row[1]) for row in self._db.rows(query)]


def _joined(*, details: bool) -> Any:
    """The query for winners with their sweep and everything it names; with the config only if details are wanted."""
    joined = (
        schema.definition.join(_sweep, _sweep.c.definition_id == schema.definition.c.id)
        .join(_winner, _winner.c.sweep_id == _sweep.c.id)
        .join(schema.environment, schema.environment.c.id == _sweep.c.environment_id)
        .join(schema.search_space, schema.search_space.c.id == _sweep.c.search_space_id)
    )
    return joined.join(_variant, _variant.c.id == _winner.c.variant_id) if details else joined


def _stamp_query() -> Select[Any]:
    """Counts and sums over the rows from which the best are chosen. The sum of IDs is not enough, since SQLite gives a
    deleted winner's ID to the next one."""
    named = schema.definition.c.name == bindparam("definition")
    exported = (
        select(func.max(_export.c.id))
        .select_from(_export.join(_sweep, _sweep.c.id == _export.c.sweep_id).join(schema.definition))
        .where(named)
        .scalar_subquery()
    )
    ended = (
        schema.definition.join(_sweep, _sweep.c.definition_id == schema.definition.c.id)
        .outerjoin(_winner, _winner.c.sweep_id == _sweep.c.id)
    )  # fmt: skip
    return (
        select(
            func.count(),
            func.sum(_sweep.c.finished_at),
            func.sum(_winner.c.id),
            func.sum(_winner.c.variant_id),
            func.sum(_winner.c.median_us),
            exported,
        )
        .select_from(ended)
        .where(named, _sweep.c.finished_at.is_not(None), _sweep.c.state != SweepState.FAILED.value)
    )


def _best_query(*, by_hardware: bool, by_target: bool) -> Select[Any]:
    """The query for the best winners. They are ranked on IDs alone, and details are read for the first ones only."""
    place = func.row_number().over(
        partition_by=(schema.environment.c.hardware, schema.search_space.c.target, _winner.c.regime, _winner.c.profile),
        order_by=(_sweep.c.finished_at.desc(), _sweep.c.id.desc()),
    )
    placed = (
        select(_winner.c.id, place.label("place"))
        .select_from(_joined(details=False))
        .where(schema.definition.c.name == bindparam("definition"))
        .where(_sweep.c.finished_at.is_not(None), _sweep.c.state != SweepState.FAILED.value)
    )
    if by_hardware:
        placed = placed.where(func.lower(schema.environment.c.hardware) == bindparam("hardware"))
    if by_target:
        placed = placed.where(schema.search_space.c.target == bindparam("target"))
    ranked = placed.subquery()
    environment = [schema.environment.c[name].label(f"environment_{name}") for name in _ENVIRONMENT]
    return (
        select(
            *winner_columns(),
            *environment,
            _winner.c.sweep_id,
            _sweep.c.finished_at,
            schema.definition.c.name.label("definition"),
            schema.search_space.c.name.label("space"),
            schema.search_space.c.target,
            schema.search_space.c.fingerprint.label("space_fingerprint"),
        )
        .select_from(_joined(details=True))
        .join(ranked, ranked.c.id == _winner.c.id)
        .where(ranked.c.place == 1)
        .order_by(_sweep.c.finished_at.desc(), _winner.c.id)
    )


def _best_row(row: Any, workloads: tuple[WinnerWorkload, ...], export: Any | None) -> BestRow:
    values = row._mapping
    return BestRow(
        sweep_id=row.sweep_id,
        definition=row.definition,
        space=row.space,
        target=row.target,
        space_fingerprint=row.space_fingerprint,
        finished_at=row.finished_at,
        winner=winner_record(row, workloads),
        environment=Environment(**{name: values[f"environment_{name}"] for name in _ENVIRONMENT}),
        export_id=None if export is None else export.id,
        solution=None if export is None else export.solution,
    )
