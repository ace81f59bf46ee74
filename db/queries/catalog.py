"""Environments, definitions, workloads and search spaces. Registering the same thing twice gives the same ID."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import select, update

from db import schema
from db.database import Database
from db.errors import StoreError
from db.records import Json, canonical, method_hash
from workers.records import Environment, Method


class Catalog:
    """Registers what sweeps refer to."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._ids: dict[tuple[Any, ...], int] = {}

    def register_environment(self, environment: Environment) -> int:
        """ID of the environment with this fingerprint."""
        values = asdict(environment)
        key = {"fingerprint": values.pop("fingerprint")}
        return self._db.write(lambda c: self._db.ensure(c, schema.environment, key, values))

    def register_definition(self, name: str, op_type: str, body: Json) -> int:
        """ID of the definition with this name and content; an edited definition gets a new one."""
        digest = hashlib.sha256(canonical(dict(body)).encode()).hexdigest()[:16]
        key = {"name": name, "digest": digest}
        values = {"op_type": op_type, "body": dict(body)}
        return self._db.write(lambda c: self._db.ensure(c, schema.definition, key, values))

    def register_workload(
        self,
        definition_id: int,
        uuid: str,
        axes: Mapping[str, int],
        dataset: str,
        content: str = "",
        profile: str = "recorded",
    ) -> int:
        """ID of the workload with this uuid and content (a digest of its inputs).

        From then on this store uses the uuid for the workload with that content.

        Raises:
            StoreError: The uuid is registered with other axes, so results of two shapes would be mixed.
        """
        key = {"definition_id": definition_id, "uuid": uuid, "content": content}
        values = {"axes": dict(axes), "dataset": dataset, "profile": profile}
        workload_id = self._db.write(lambda c: self._db.ensure(c, schema.workload, key, values))
        (known,) = self._db.rows(select(schema.workload).where(schema.workload.c.id == workload_id))
        if known.axes != dict(axes):
            raise StoreError(
                f"workload {uuid!r} is recorded with axes {known.axes} and now has {dict(axes)}; give it a new uuid"
            )
        if known.dataset != dataset:
            moved = update(schema.workload).where(schema.workload.c.id == workload_id).values(dataset=dataset)
            self._db.write(lambda c: c.execute(moved) and None)
        self._ids["workload", definition_id, uuid] = workload_id
        return workload_id

    def register_space(self, name: str, target: str, fingerprint: str) -> int:
        """ID of the search space of this family and target with these sources."""
        key = {"fingerprint": fingerprint, "name": name, "target": target}
        return self._db.write(lambda c: self._db.ensure(c, schema.search_space, key, {}))

    def definition_body(self, definition_id: int) -> Mapping[str, Any]:
        """A definition's document as a sweep recorded it."""
        table = schema.definition
        rows = self._db.rows(select(table.c.body).where(table.c.id == definition_id))
        return dict(rows[0].body) if rows else {}

    def workload_axes(self, uuids: Sequence[str]) -> dict[str, Mapping[str, int]]:
        """Axes by uuid. If the content of a uuid has changed, those of the newest."""
        table = schema.workload
        query = select(table.c.uuid, table.c.axes).where(table.c.uuid.in_(list(uuids))).order_by(table.c.id)
        return {row.uuid: row.axes for row in self._db.rows(query)}

    def environments(self) -> list[Environment]:
        """All environments, in the order in which they were first seen."""
        table = schema.environment
        columns = [table.c[field.name] for field in fields(Environment)]
        return [Environment(**row._mapping) for row in self._db.rows(select(*columns).order_by(table.c.id))]

    def rates(self, environment_id: int | None) -> Mapping[str, float]:
        """What the machine of an environment does at most, as measured; empty if that was not done, or if there is no
        environment yet. Units are in the names: ``copy_bytes_per_us``, ``multiply_add_flop_per_us``."""
        if environment_id is None:
            return {}
        table = schema.environment
        (row,) = self._db.rows(select(table.c.rates).where(table.c.id == environment_id))
        return dict(row.rates)

    def set_rates(self, environment_id: int, rates: Mapping[str, float]) -> None:
        """Keep measured rates with an environment."""
        table = schema.environment
        query = update(table).where(table.c.id == environment_id).values(rates=dict(rates))
        self._db.write(lambda c: c.execute(query) and None)

    def environment_id(self, fingerprint: str) -> int:
        """ID of a registered environment.

        Raises:
            StoreError: There is none with this fingerprint.
        """
        key = ("environment", fingerprint)
        if key not in self._ids:
            table = schema.environment
            found = self._db.rows(select(table.c.id).where(table.c.fingerprint == fingerprint))
            if not found:
                raise StoreError(f"environment {fingerprint!r} is not registered")
            self._ids[key] = found[0].id
        return self._ids[key]

    def workload_id(self, definition_id: int, uuid: str) -> int:
        """ID of a registered workload.

        Raises:
            StoreError: The definition has none with this uuid.
        """
        key = ("workload", definition_id, uuid)
        if key not in self._ids:
            table = schema.workload
            query = select(table.c.id).where(table.c.definition_id == definition_id, table.c.uuid == uuid)
            found = self._db.rows(query.order_by(table.c.id.desc()).limit(1))
            if not found:
                raise StoreError(f"workload {uuid!r} is not registered for the sweep's definition")
            self._ids[key] = found[0].id
        return self._ids[key]

    def method_id(self, method: Method) -> int:
        """ID of a method."""
        key = ("method", method_hash(method))
        if key not in self._ids:
            body = {"body": asdict(method)}
            self._ids[key] = self._db.write(lambda c: self._db.ensure(c, schema.method, {"hash": key[1]}, body))
        return self._ids[key]
