"""The store: opened by URL, the only door to the database."""

from __future__ import annotations

import time
from types import TracebackType

from sqlalchemy import update

from db import migrate, schema
from db.engine import label, make_engine, parse_url
from db.errors import StoreError
from db.lookups import Lookups
from db.requests import Requests
from db.tokens import Tokens


class Store(Lookups, Requests, Tokens):
    """A database of results: SQLite, in a file or in memory, or PostgreSQL.

    Every write is one transaction. Safe to use from several threads and several processes, but not across a fork: a
    child process opens its own. What comes out are frozen records; nothing refers to the connection any more.
    """

    @classmethod
    def open(cls, url: str, *, create: bool = True, upgrade: bool = False, patience_s: float = 60.0) -> Store:
        """The store behind a URL, with the schema that this code works with.

        Args:
            url: ``sqlite:///PATH``, ``sqlite://`` for one in memory, or ``postgresql://USER@HOST/NAME``.
            create: Make a missing file, its folder and missing tables. A lookup passes False.
            upgrade: Bring an older PostgreSQL schema to the newest. An older SQLite file always is, by whoever opens
                it, since it belongs to one user.
            patience_s: How long a transaction is repeated while a PostgreSQL server restarts or drops connections.
                Opening never waits for a server that is not there.

        Raises:
            StoreError: The URL cannot be read, the database is missing, unreachable, damaged, may not be written, or
                has a schema that this code does not work with.
        """
        parsed = parse_url(url)
        engine = make_engine(parsed, create=create)
        store = cls(parsed, engine, 0.0)
        try:
            version = store.schema_version()
            if not migrate.is_current(version):
                store._bring_up(version, create=create, upgrade=upgrade)
        except BaseException:
            store.close()
            raise
        store._patience_s = patience_s
        return store

    def _bring_up(self, version: str | None, *, create: bool, upgrade: bool) -> None:
        where = label(self._url)
        if version is None:
            if not create:
                raise StoreError(f"database {where} holds no results yet; a sweep creates the tables")
        elif self._url.get_backend_name() != "sqlite" and not upgrade:
            raise StoreError(
                f"database {where} has schema {version!r} and {schema.REVISIONS[-1]!r} is needed: run tuner db upgrade"
            )
        self.upgrade()

    def upgrade(self, revision: str = "head") -> None:
        """Brings the schema to a revision, by default the newest; all of it or nothing.

        Raises:
            StoreError: The database failed; its schema is what it was.
        """
        self._write(lambda connection: migrate.upgrade(connection, revision), repeat=False, rebuilds=True)

    def schema_version(self) -> str | None:
        """The revision that the database holds, None for an empty one."""
        return self._fetch(migrate.schema_version)

    def prune(self, samples_older_than_s: float) -> int:
        """Drops samples and build logs of that age; medians, intervals and statuses stay.

        The finalists' samples stay too: they are few, and the evidence for the winners.

        Returns:
            The number of measurements and builds that lost something.
        """
        before = time.time() - samples_older_than_s
        measurement, build = schema.measurement, schema.build
        samples = (
            update(measurement)
            .where(measurement.c.measured_at < before, measurement.c.samples.is_not(None))
            .values(samples=None)
        )
        logs = update(build).where(build.c.built_at < before, build.c.log != "").values(log="")
        return self._write(lambda c: int(c.execute(samples).rowcount + c.execute(logs).rowcount))

    def close(self) -> None:
        """Gives up all connections; a database in memory is gone."""
        with self._keeping:
            self._drop_kept()
        self._engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
