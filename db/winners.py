"""What came out: finalists, winners, exports, and the queries that hand them out."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Select, delete, func, select

from db import schema
from db.errors import StoreError
from db.measurements import MEASURED, measured, measurement_record
from db.records import (
    BestRow,
    EnvironmentRecord,
    ExportRecord,
    MeasurementRecord,
    RelatedConfig,
    SweepState,
    WinnerRecord,
    WinnerWorkload,
)
from db.trials import Trials

_sweep, _winner, _finalist, _variant, _export = (
    schema.sweep,
    schema.winner,
    schema.finalist,
    schema.variant,
    schema.export,
)

_OWN = ("median_us", "low_us", "high_us", "default_median_us")
_WINNER = ("regime", *_OWN, "default_low_us", "default_high_us", "size_axis", "min_size", "max_size")
_ENVIRONMENT = tuple(column.name for column in schema.environment.columns)


class Winners(Trials):
    """The part of the store that keeps outcomes."""

    def commit_comparison(self, sweep_id: int, measurements: Sequence[MeasurementRecord]) -> None:
        """Keeps interleaved measurements of finalists, each with its ``config_hash``.

        They are paired (sample i of all of them belongs to round i), hence kept with the sweep and never reused. A
        finalist on a workload that was compared before is replaced: pass all rounds so far.

        Raises:
            SweepBusy: Another process holds the sweep.
            StoreError: A config has no trial in the sweep's space, or a name is not registered.
        """
        definition_id, space_id = self._sweep_keys(sweep_id)
        hashes = {m.config_hash for m in measurements}
        rows = {
            h: self._measurement_rows(definition_id, [m for m in measurements if m.config_hash == h]) for h in hashes
        }

        def commit(connection: Connection) -> None:
            self._fence(connection, sweep_id)
            variants = self._variant_ids(connection, space_id, hashes)
            values = [
                {**row, "sweep_id": sweep_id, "variant_id": variants[h]} for h in sorted(hashes) for row in rows[h]
            ]
            statement = self._insert(_finalist)
            changed = ("environment_id", "method_id", *MEASURED, "samples")
            upsert = statement.on_conflict_do_update(
                index_elements=["sweep_id", "variant_id", "workload_id"],
                set_={name: statement.excluded[name] for name in changed},
            )
            if values:
                connection.execute(upsert, values)

        self._write(commit)

    def finalists(self, sweep_id: int) -> list[MeasurementRecord]:
        """The comparison of a sweep, with samples."""
        query = (
            measured(_finalist, details=True)
            .add_columns(_variant.c.config_hash)
            .join(_variant, _variant.c.id == _finalist.c.variant_id)
            .where(_finalist.c.sweep_id == sweep_id)
            .order_by(_finalist.c.variant_id, _finalist.c.workload_id)
        )
        return [measurement_record(row, row.config_hash) for row in self._rows(query)]

    def set_winners(self, sweep_id: int, winners: Sequence[WinnerRecord]) -> None:
        """Makes these the sweep's winners, one per regime; earlier ones of the sweep go.

        Raises:
            SweepBusy: Another process holds the sweep.
            StoreError: A config has no trial in the sweep's space, a regime comes twice, or a workload is unknown.
        """
        definition_id, space_id = self._sweep_keys(sweep_id)
        workloads = {w.workload: self._workload_id(definition_id, w.workload) for r in winners for w in r.workloads}

        def put(connection: Connection) -> None:
            self._fence(connection, sweep_id)
            variants = self._variant_ids(connection, space_id, {w.config_hash for w in winners})
            connection.execute(delete(_winner).where(_winner.c.sweep_id == sweep_id))
            for winner in winners:
                values = {name: getattr(winner, name) for name in _WINNER}
                values |= {"sweep_id": sweep_id, "variant_id": variants[winner.config_hash]}
                statement = self._insert(_winner).values(values).returning(_winner.c.id)
                winner_id = connection.execute(statement).scalar_one()
                rows = [
                    {
                        "winner_id": winner_id,
                        "workload_id": workloads[w.workload],
                        **{name: getattr(w, name) for name in _OWN},
                    }
                    for w in winner.workloads
                ]
                if rows:
                    connection.execute(self._insert(schema.winner_workload), rows)

        self._write(put)

    def winners(self, sweep_id: int) -> list[WinnerRecord]:
        """The winners of a sweep, by regime in the order in which they were set."""
        query = select(*_winner_columns()).join(_variant).where(_winner.c.sweep_id == sweep_id).order_by(_winner.c.id)

        def read(connection: Connection) -> list[WinnerRecord]:
            rows = connection.execute(query).all()
            workloads = _winner_workloads(connection, [row.winner_id for row in rows])
            return [_winner_record(row, workloads[row.winner_id]) for row in rows]

        return self._fetch(read)

    def best_rows(self, definition: str, *, hardware: str | None = None, target: str | None = None) -> list[BestRow]:
        """For each (hardware, target, regime), the winner of the newest sweep that finished; the newest first.

        Args:
            definition: Name.
            hardware: Only this model, in any case of letters.
            target: Only this target.
        """

        def read(connection: Connection) -> list[BestRow]:
            rows = connection.execute(_best_query(definition, hardware, target)).all()
            workloads = _winner_workloads(connection, [row.winner_id for row in rows])
            exports = _newest_exports(connection, {row.sweep_id for row in rows})
            return [_best_row(row, workloads[row.winner_id], exports.get(row.sweep_id)) for row in rows]

        return self._fetch(read)

    def related_best_configs(
        self, space: str, *, definition: str, hardware: str, exclude_sweep: int | None = None, limit: int = 10
    ) -> list[RelatedConfig]:
        """Distinct winning configs of the same space family, to start a search from.

        Those of the same definition come first, then those of the same hardware, then the newest.

        Args:
            space: Name of the family, of any sources and target.
            definition: The definition that is searched for.
            hardware: The hardware that is searched on.
            exclude_sweep: The sweep that asks.
            limit: At most so many.
        """
        query = (
            select(
                _variant.c.config,
                _variant.c.config_hash,
                schema.definition.c.name.label("definition"),
                schema.environment.c.hardware,
                schema.search_space.c.target,
                _winner.c.regime,
                _winner.c.median_us,
                _winner.c.sweep_id,
            )
            .select_from(_joined())
            .where(schema.search_space.c.name == space, _sweep.c.finished_at.is_not(None))
            .order_by(_sweep.c.finished_at.desc(), _winner.c.id)
            .limit(50 * limit)
        )
        rows = [row for row in self._rows(query) if row.sweep_id != exclude_sweep]
        rows.sort(key=lambda row: (row.definition != definition, row.hardware != hardware))
        distinct: dict[str, Any] = {}
        for row in rows:
            distinct.setdefault(row.config_hash, row)
        names = ("config", "definition", "hardware", "target", "regime", "median_us", "sweep_id")
        return [RelatedConfig(**{n: row._mapping[n] for n in names}) for row in list(distinct.values())[:limit]]

    def record_export(self, export: ExportRecord) -> int:
        """Id of the recorded export."""
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
        statement = self._insert(_export).values(values).returning(_export.c.id)
        return self._write(lambda c: int(c.execute(statement).scalar_one()), repeat=False)

    def exports(self, definition: str | None = None) -> list[ExportRecord]:
        """Exports of a definition, or all; the newest first, without their content."""
        query = _exports(content=False).order_by(_export.c.id.desc())
        if definition is not None:
            query = query.where(schema.definition.c.name == definition)
        return [ExportRecord(**row._mapping) for row in self._rows(query)]

    def get_export(self, export_id: int) -> ExportRecord | None:
        """One export with its content, None if there is no such one."""
        rows = self._rows(_exports(content=True).where(_export.c.id == export_id))
        return ExportRecord(**rows[0]._mapping) if rows else None

    def _variant_ids(self, connection: Connection, space_id: int, hashes: Iterable[str]) -> dict[str, int]:
        wanted = set(hashes)
        query = select(_variant.c.config_hash, _variant.c.id).where(
            _variant.c.search_space_id == space_id, _variant.c.config_hash.in_(wanted)
        )
        found = {row.config_hash: row.id for row in connection.execute(query)}
        missing = sorted(wanted - set(found))
        if missing:
            raise StoreError(f"config {missing[0]!r} has no trial in the sweep's search space")
        return found


def _exports(*, content: bool) -> Select[Any]:
    columns = [c for c in _export.columns if content or c.name != "content"]
    return (
        select(*columns, schema.definition.c.name.label("definition"))
        .join(_sweep, _sweep.c.id == _export.c.sweep_id)
        .join(schema.definition, schema.definition.c.id == _sweep.c.definition_id)
    )


def _joined() -> Any:
    """A winner with its sweep and everything that the sweep names."""
    return (
        schema.definition.join(_sweep, _sweep.c.definition_id == schema.definition.c.id)
        .join(_winner, _winner.c.sweep_id == _sweep.c.id)
        .join(schema.environment, schema.environment.c.id == _sweep.c.environment_id)
        .join(schema.search_space, schema.search_space.c.id == _sweep.c.search_space_id)
        .join(_variant, _variant.c.id == _winner.c.variant_id)
    )


def _winner_columns() -> list[Any]:
    own = [_winner.c[name] for name in _WINNER]
    return [_winner.c.id.label("winner_id"), *own, _variant.c.config, _variant.c.config_hash]


def _best_query(definition: str, hardware: str | None, target: str | None) -> Select[Any]:
    newest_first = (_sweep.c.finished_at.desc(), _sweep.c.id.desc())
    place = func.row_number().over(
        partition_by=(schema.environment.c.hardware, schema.search_space.c.target, _winner.c.regime),
        order_by=newest_first,
    )
    environment = [schema.environment.c[name].label(f"environment_{name}") for name in _ENVIRONMENT]
    query = (
        select(
            *_winner_columns(),
            *environment,
            _winner.c.sweep_id,
            _sweep.c.finished_at,
            schema.definition.c.name.label("definition"),
            schema.search_space.c.name.label("space"),
            schema.search_space.c.target,
            schema.search_space.c.fingerprint.label("space_fingerprint"),
            place.label("place"),
        )
        .select_from(_joined())
        .where(schema.definition.c.name == definition)
        .where(_sweep.c.finished_at.is_not(None), _sweep.c.state != SweepState.FAILED.value)
    )
    if hardware is not None:
        query = query.where(func.lower(schema.environment.c.hardware) == hardware.lower())
    if target is not None:
        query = query.where(schema.search_space.c.target == target)
    ranked = query.subquery()
    return select(ranked).where(ranked.c.place == 1).order_by(ranked.c.finished_at.desc(), ranked.c.winner_id)


def _winner_workloads(connection: Connection, winner_ids: Sequence[int]) -> dict[int, tuple[WinnerWorkload, ...]]:
    table = schema.winner_workload
    query = (
        select(table.c.winner_id, schema.workload.c.uuid, schema.workload.c.axes, *(table.c[name] for name in _OWN))
        .join(schema.workload, schema.workload.c.id == table.c.workload_id)
        .where(table.c.winner_id.in_(winner_ids))
        .order_by(table.c.winner_id, table.c.workload_id)
    )
    found: dict[int, list[WinnerWorkload]] = defaultdict(list)
    for row in connection.execute(query):
        figures = {name: row._mapping[name] for name in _OWN}
        found[row.winner_id].append(WinnerWorkload(workload=row.uuid, axes=row.axes, **figures))
    return {winner_id: tuple(found[winner_id]) for winner_id in winner_ids}


def _newest_exports(connection: Connection, sweep_ids: Iterable[int]) -> dict[int, Any]:
    query = (
        select(_export.c.sweep_id, _export.c.id, _export.c.solution)
        .where(_export.c.sweep_id.in_(list(sweep_ids)))
        .order_by(_export.c.id)
    )
    return {row.sweep_id: row for row in connection.execute(query)}


def _winner_record(row: Any, workloads: tuple[WinnerWorkload, ...]) -> WinnerRecord:
    values = row._mapping
    return WinnerRecord(
        **{name: values[name] for name in _WINNER},
        config_hash=row.config_hash,
        config=row.config,
        workloads=workloads,
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
        winner=_winner_record(row, workloads),
        environment=EnvironmentRecord(**{name: values[f"environment_{name}"] for name in _ENVIRONMENT}),
        export_id=None if export is None else export.id,
        solution=None if export is None else export.solution,
    )
