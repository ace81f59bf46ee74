"""An open database: runs transactions, repeats them if that may help, and makes rows that must be unique."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Engine,
    Executable,
    Float,
    Select,
    Table,
    bindparam,
    func,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from db.engine import is_memory, is_transient, one_line_errors
from db.errors import StoreError

T = TypeVar("T")
S = TypeVar("S", bound=Executable)


class Database:
    """An open database. Safe to use from several threads, not across a fork."""

    def __init__(self, url: URL, engine: Engine, patience_s: float) -> None:
        self.url = url
        self.engine = engine
        self.patience_s = patience_s
        self._statements: dict[str, Any] = {}
        self._kept: Connection | None = None
        self._keeping = threading.Lock()

    def rows(self, query: Select[Any]) -> Sequence[Any]:
        """All rows of one query."""
        return self.fetch(lambda connection: connection.execute(query).all())

    def glance(self, query: Select[Any], values: Mapping[str, Any]) -> Sequence[Any]:
        """All rows of one small query, on a connection kept for that: a quarter of the cost of one from the pool.

        Each query is its own transaction and sees everything committed before. If the connection breaks it is replaced,
        and the query runs on one from the pool.
        """
        with self._keeping:
            try:
                if self._kept is None and not is_memory(self.url):
                    self._kept = self.engine.connect()
                    if self.engine.dialect.name == "postgresql":  # one round trip to the server instead of three
                        self._kept.execution_options(isolation_level="AUTOCOMMIT")
                    self._kept.detach()  # no longer managed by the pool
                if self._kept is not None:
                    with self._kept.begin():
                        return self._kept.execute(query, values).all()
            except (SQLAlchemyError, OverflowError):
                self._drop_kept()
        return self.fetch(lambda connection: connection.execute(query, values).all())

    def close(self) -> None:
        """Close all connections. A database in memory is lost."""
        with self._keeping:
            self._drop_kept()
        self.engine.dispose()

    def _drop_kept(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.invalidate()
            kept.close()

    def fetch(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in a read-only transaction, which sees one consistent state.

        Raises:
            StoreError: The database cannot be reached or read, and repeating did not help.
        """
        return self._run(work, repeat=True, write=False)

    def write(self, work: Callable[[Connection], T], *, repeat: bool = True, rebuilds: bool = False) -> T:
        """Run ``work`` in one transaction: all of its writes are kept, or none.

        Args:
            work: Called with the connection. It may run several times, even after a commit whose answer was lost, so it
                must be repeatable.
            repeat: False if it is not.
            rebuilds: Whether it rebuilds tables, during which SQLite does not enforce foreign keys.

        Raises:
            StoreError: The transaction failed, and repeating it did not help or was not allowed.
        """
        return self._run(work, repeat=repeat, write=True, rebuilds=rebuilds)

    def _run(self, work: Callable[[Connection], T], *, repeat: bool, **options: bool) -> T:
        give_up_at = time.monotonic() + self.patience_s
        pause_s = 0.05
        while True:
            try:
                with self.engine.connect().execution_options(**options) as connection, connection.begin():
                    return work(connection)
            except SQLAlchemyError as error:
                if not (repeat and is_transient(error) and time.monotonic() < give_up_at):
                    with one_line_errors(self.url):
                        raise
            except OverflowError as error:  # of SQLite's driver, which SQLAlchemy lets pass
                raise StoreError(f"a number does not fit into 64 bits: {error}") from error
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)

    def insert(self, table: Table) -> Any:
        """An INSERT that supports ON CONFLICT, in the database's dialect."""
        return postgresql.insert(table) if self.engine.dialect.name == "postgresql" else sqlite.insert(table)

    def once(self, name: str, make: Callable[[], S]) -> S:
        """A statement that is built once and kept: building costs more than running, and each trial runs eight."""
        if name not in self._statements:
            self._statements[name] = make()
        statement: S = self._statements[name]
        return statement

    def ensure(self, connection: Connection, table: Table, key: Mapping[str, Any], rest: Mapping[str, Any]) -> int:
        """The ID of the row with this unique key; inserted with ``rest`` if it is missing."""
        query = self.once(
            f"find {table.name}", lambda: select(table.c.id).where(*(table.c[name] == bindparam(name) for name in key))
        )
        insert = self.once(
            f"make {table.name}", lambda: self.insert(table).on_conflict_do_nothing().returning(table.c.id)
        )
        found = connection.execute(query, key).scalar()
        if found is None:
            found = connection.execute(insert, {**key, **rest}).scalar()
        if found is None:  # another process has inserted it meanwhile
            found = connection.execute(query, key).scalar_one()
        return int(found)

    def now(self) -> ColumnElement[Any]:
        """The clock of heartbeats: PostgreSQL's own, since sweeps may run on several hosts."""
        if self.engine.dialect.name == "postgresql":
            return func.extract("epoch", func.clock_timestamp())
        return bindparam(None, callable_=time.time, type_=Float)


def finite(value: float | None) -> float | None:
    """The value, None for NaN: SQLite would store it as NULL, PostgreSQL would sort it above all numbers."""
    return None if value is None or math.isnan(value) else value
