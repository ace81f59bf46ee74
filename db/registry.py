"""What sweeps refer to: environments, definitions, workloads, search spaces. Registering twice gives the same id."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, fields

from sqlalchemy import select, update

from db import schema
from db.connected import Connected
from db.errors import StoreError
from db.records import Json, canonical, method_hash
from workers.records import Environment, Method


class Registry(Connected):
    """The part of the store that names things."""

    def register_environment(self, environment: Environment) -> int:
        """Id of the environment with this fingerprint."""
        values = asdict(environment)
        key = {"fingerprint": values.pop("fingerprint")}
        return self._write(lambda c: self._ensure(c, schema.environment, key, values))

    def register_definition(self, name: str, op_type: str, body: Json) -> int:
        """Id of the definition with this name and content; an edited one gets another id."""
        digest = hashlib.sha256(canonical(dict(body)).encode()).hexdigest()[:16]
        key = {"name": name, "digest": digest}
        values = {"op_type": op_type, "body": dict(body)}
        return self._write(lambda c: self._ensure(c, schema.definition, key, values))

    def register_workload(
        self, definition_id: int, uuid: str, axes: Mapping[str, int], dataset: str, content: str = ""
    ) -> int:
        """Id of the workload with this uuid and content (a digest of its inputs).

        From now on this store takes the uuid for the workload of that content.

        Raises:
            StoreError: The uuid is recorded with other axes: results of two shapes would be mixed.
        """
        key = {"definition_id": definition_id, "uuid": uuid, "content": content}
        values = {"axes": dict(axes), "dataset": dataset}
        workload_id = self._write(lambda c: self._ensure(c, schema.workload, key, values))
        (known,) = self._rows(select(schema.workload).where(schema.workload.c.id == workload_id))
        if known.axes != dict(axes):
            raise StoreError(
                f"workload {uuid!r} is recorded with axes {known.axes} and now has {dict(axes)}; give it a new uuid"
            )
        if known.dataset != dataset:
            moved = update(schema.workload).where(schema.workload.c.id == workload_id).values(dataset=dataset)
            self._write(lambda c: c.execute(moved) and None)
        self._ids["workload", definition_id, uuid] = workload_id
        return workload_id

    def register_space(self, name: str, target: str, fingerprint: str) -> int:
        """Id of the search space of this family and target with these sources."""
        key = {"fingerprint": fingerprint, "name": name, "target": target}
        return self._write(lambda c: self._ensure(c, schema.search_space, key, {}))

    def environments(self) -> list[Environment]:
        """All environments, in the order in which they were first seen."""
        table = schema.environment
        columns = [table.c[field.name] for field in fields(Environment)]
        return [Environment(**row._mapping) for row in self._rows(select(*columns).order_by(table.c.id))]

    def _environment_id(self, fingerprint: str) -> int:
        key = ("environment", fingerprint)
        if key not in self._ids:
            table = schema.environment
            found = self._rows(select(table.c.id).where(table.c.fingerprint == fingerprint))
            if not found:
                raise StoreError(f"environment {fingerprint!r} is not registered")
            self._ids[key] = found[0].id
        return self._ids[key]

    def _workload_id(self, definition_id: int, uuid: str) -> int:
        key = ("workload", definition_id, uuid)
        if key not in self._ids:
            table = schema.workload
            query = select(table.c.id).where(table.c.definition_id == definition_id, table.c.uuid == uuid)
            found = self._rows(query.order_by(table.c.id.desc()).limit(1))
            if not found:
                raise StoreError(f"workload {uuid!r} is not registered for the sweep's definition")
            self._ids[key] = found[0].id
        return self._ids[key]

    def _method_id(self, method: Method) -> int:
        key = ("method", method_hash(method))
        if key not in self._ids:
            body = {"body": asdict(method)}
            self._ids[key] = self._write(lambda c: self._ensure(c, schema.method, {"hash": key[1]}, body))
        return self._ids[key]
