"""The store: opened by URL, the only door to the database."""

from __future__ import annotations

import time
from types import TracebackType

from sqlalchemy import update

from db import migrate, schema
from db.database import Database
from db.engine import label, make_engine, parse_url
from db.errors import NoDatabase, StoreError
from db.queries.catalog import Catalog
from db.queries.exports import Exports
from db.queries.lookups import Lookups
from db.queries.measurements import Measurements
from db.queries.sweeps import Sweeps
from db.queries.tokens import Tokens
from db.queries.trials import Trials
from db.queries.winners import Winners


class Store:
    """A database of results: SQLite, in a file or in memory, or PostgreSQL.

    Every write is one transaction. Safe to use from several threads and several processes, but not across a fork: a
    child process opens its own. It returns frozen records, which do not depend on the connection.

    The queries are grouped by what they are about: ``store.trials.of(sweep_id)``, ``store.best.rows(definition)``.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.catalog = Catalog(database)
        """Environments, definitions, workloads and search spaces, to which sweeps refer."""
        self.sweeps = Sweeps(database)
        self.measurements = Measurements(database, self.catalog)
        """Builds and measurements of variants, for reuse."""
        self.trials = Trials(database, self.sweeps, self.measurements)
        self.winners = Winners(database, self.catalog, self.sweeps, self.measurements)
        self.exports = Exports(database)
        self.best = Lookups(database, self.winners, self.exports)
        """Lookups over all sweeps: the best configs of a definition."""
        self.tokens = Tokens(database)
        """Tokens of the HTTP service."""

    @classmethod
    def open(cls, url: str, *, create: bool = True, upgrade: bool = False, patience_s: float = 60.0) -> Store:
        """The store behind a URL, with the schema that this code works with.

        Args:
            url: ``sqlite:///PATH``, ``sqlite://`` for one in memory, or ``postgresql://USER@HOST/NAME``.
            create: Make a missing file, its folder and missing tables. A lookup passes False.
            upgrade: Bring an older PostgreSQL schema to the newest. An older SQLite file is always upgraded when
                it is opened, since it belongs to one user.
            patience_s: How long a transaction is repeated while a PostgreSQL server restarts or drops connections.
                Opening never waits for a server that is not there.

        Raises:
            NoDatabase: It is missing or empty, and ``create`` is False.
            StoreError: The URL cannot be read, the database is unreachable, damaged, may not be written, or
                has a schema that this code does not work with.
        """
        parsed = parse_url(url)
        store = cls(Database(parsed, make_engine(parsed, create=create), 0.0))
        try:
            version = store.schema_version()
            if not migrate.is_current(version):
                store._bring_up(version, create=create, upgrade=upgrade)
        except BaseException:
            store.close()
            raise
        store.database.patience_s = patience_s
        return store

    def _bring_up(self, version: str | None, *, create: bool, upgrade: bool) -> None:
        where = label(self.database.url)
        if version is None:
            if not create:
                raise NoDatabase(f"database {where} holds no results yet; a sweep creates the tables")
        elif self.database.url.get_backend_name() != "sqlite" and not upgrade:
            raise StoreError(
                f"database {where} has schema {version!r} and {schema.REVISIONS[-1]!r} is needed: run tuner db upgrade"
            )
        self.upgrade()

    def upgrade(self) -> None:
        """Bring the schema to the newest revision, completely or not at all.

        Raises:
            StoreError: The database failed; its schema is unchanged.
        """
        self.database.write(migrate.upgrade, repeat=False, rebuilds=True)

    def schema_version(self) -> str | None:
        """The revision that the database holds, None for an empty one."""
        return self.database.fetch(migrate.schema_version)

    def prune(self, samples_older_than_s: float) -> int:
        """Drop samples and build logs of that age. Medians, intervals and statuses stay.

        Samples of finalists stay too: they are few, and they are the evidence for the winners.

        Returns:
            The number of measurements and builds from which something was dropped.
        """
        before = time.time() - samples_older_than_s
        measurement, build = schema.measurement, schema.build
        samples = (
            update(measurement)
            .where(measurement.c.measured_at < before, measurement.c.samples.is_not(None))
            .values(samples=None)
        )
        logs = update(build).where(build.c.built_at < before, build.c.log != "").values(log="")
        return self.database.write(lambda c: int(c.execute(samples).rowcount + c.execute(logs).rowcount))

    def close(self) -> None:
        """Close all connections. A database in memory is lost."""
        self.database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
