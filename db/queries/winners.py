"""The outcome of a sweep: finalists and winners."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select

from db import schema
from db.database import Database
from db.errors import StoreError
from db.queries.catalog import Catalog
from db.queries.measurements import MEASURED, Measurements, measured, measurement_record
from db.queries.sweeps import Sweeps
from db.records import StoredMeasurement, WinnerRecord, WinnerWorkload

_sweep, _winner, _finalist, _variant, _export = (
    schema.sweep,
    schema.winner,
    schema.finalist,
    schema.variant,
    schema.export,
)

_OWN = ("median_us", "low_us", "high_us", "default_median_us")
_WINNER = (
    "regime", *_OWN, "default_low_us", "default_high_us", "size_axis", "min_size", "max_size", "profile", "unfit_sizes"
)  # fmt: skip


class Winners:
    """Stores and reads finalists and winners."""

    def __init__(self, database: Database, catalog: Catalog, sweeps: Sweeps, measurements: Measurements) -> None:
        self._db = database
        self._catalog = catalog
        self._sweeps = sweeps
        self._measured = measurements

    def commit_comparison(self, sweep_id: int, measurements: Sequence[StoredMeasurement]) -> None:
        """Store interleaved measurements of finalists, each with its ``config_hash``.

        They are paired (sample i of each belongs to round i), so they belong to the sweep and are never reused.
        Existing ones of the same finalist and workload are replaced, so pass all rounds so far.

        Raises:
            SweepBusy: Another process holds the sweep.
            StoreError: A config has no trial in the sweep's space, or a name is not registered.
        """
        definition_id, space_id = self._sweeps.keys(sweep_id)
        hashes = {m.config_hash for m in measurements}
        rows = {h: self._measured.rows(definition_id, [m for m in measurements if m.config_hash == h]) for h in hashes}

        def commit(connection: Connection) -> None:
            self._sweeps.fence(connection, sweep_id)
            variants = self._variant_ids(connection, space_id, hashes)
            values = [
                {**row, "sweep_id": sweep_id, "variant_id": variants[h]} for h in sorted(hashes) for row in rows[h]
            ]
            statement = self._db.insert(_finalist)
            changed = ("environment_id", "method_id", *MEASURED, "samples")
            upsert = statement.on_conflict_do_update(
                index_elements=["sweep_id", "variant_id", "workload_id"],
                set_={name: statement.excluded[name] for name in changed},
            )
            if values:
                connection.execute(upsert, values)

        self._db.write(commit)

    def finalists(self, sweep_id: int) -> list[StoredMeasurement]:
        """The comparison of a sweep, with samples."""
        query = (
            measured(_finalist, details=True)
            .add_columns(_variant.c.config_hash)
            .join(_variant, _variant.c.id == _finalist.c.variant_id)
            .where(_finalist.c.sweep_id == sweep_id)
            .order_by(_finalist.c.variant_id, _finalist.c.workload_id)
        )
        return [measurement_record(row, row.config_hash) for row in self._db.rows(query)]

    def set(self, sweep_id: int, winners: Sequence[WinnerRecord]) -> None:
        """Make these the sweep's winners, one per regime and profile, replacing earlier ones.

        Raises:
            SweepBusy: Another process holds the sweep.
            StoreError: A config has no trial in the sweep's space, a regime comes twice, or a workload is unknown.
        """
        definition_id, space_id = self._sweeps.keys(sweep_id)
        workloads = {
            w.workload: self._catalog.workload_id(definition_id, w.workload) for r in winners for w in r.workloads
        }

        def put(connection: Connection) -> None:
            self._sweeps.fence(connection, sweep_id)
            variants = self._variant_ids(connection, space_id, {w.config_hash for w in winners})
            connection.execute(delete(_winner).where(_winner.c.sweep_id == sweep_id))
            for winner in winners:
                values = {name: getattr(winner, name) for name in _WINNER}
                values |= {"sweep_id": sweep_id, "variant_id": variants[winner.config_hash]}
                statement = self._db.insert(_winner).values(values).returning(_winner.c.id)
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
                    connection.execute(self._db.insert(schema.winner_workload), rows)

        self._db.write(put)

    def of(self, sweep_id: int, *, alone: bool = False) -> list[WinnerRecord]:
        """The winners of a sweep over all workloads, by regime in the order in which they were set; with ``alone``
        those of single profiles instead."""
        which = _winner.c.profile != "" if alone else _winner.c.profile == ""
        query = (
            select(*winner_columns()).join(_variant).where(_winner.c.sweep_id == sweep_id, which).order_by(_winner.c.id)
        )

        def read(connection: Connection) -> list[WinnerRecord]:
            rows = connection.execute(query).all()
            workloads = self.workloads(connection, [row.winner_id for row in rows])
            return [winner_record(row, workloads[row.winner_id]) for row in rows]

        return self._db.fetch(read)

    def workloads(self, connection: Connection, winner_ids: Sequence[int]) -> dict[int, tuple[WinnerWorkload, ...]]:
        """The workloads of these winners, by winner."""
        table = schema.winner_workload
        query = self._db.once(
            "winner workloads",
            lambda: (
                select(
                    table.c.winner_id,
                    schema.workload.c.uuid,
                    schema.workload.c.axes,
                    schema.workload.c.profile,
                    *(table.c[name] for name in _OWN),
                )
                .join(schema.workload, schema.workload.c.id == table.c.workload_id)
                .where(table.c.winner_id.in_(bindparam("winners", expanding=True)))
                .order_by(table.c.winner_id, table.c.workload_id)
            ),
        )
        found: dict[int, list[WinnerWorkload]] = defaultdict(list)
        for row in connection.execute(query, {"winners": winner_ids}):
            figures = {name: row._mapping[name] for name in _OWN}
            found[row.winner_id].append(
                WinnerWorkload(workload=row.uuid, axes=row.axes, profile=row.profile, **figures)
            )
        return {winner_id: tuple(found[winner_id]) for winner_id in winner_ids}

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


def winner_columns() -> list[Any]:
    """The columns that :func:`winner_record` reads, from ``winner`` joined with ``variant``."""
    own = [_winner.c[name] for name in _WINNER]
    return [_winner.c.id.label("winner_id"), *own, _variant.c.config, _variant.c.config_hash]


def winner_record(row: Any, workloads: tuple[WinnerWorkload, ...]) -> WinnerRecord:
    """The record of a row of :func:`winner_columns`."""
    values = row._mapping
    return WinnerRecord(
        **{name: values[name] for name in _WINNER if name != "unfit_sizes"},
        unfit_sizes=tuple((low, high) for low, high in row.unfit_sizes),
        config_hash=row.config_hash,
        config=row.config,
        workloads=workloads,
    )
