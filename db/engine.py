"""Makes engines from URLs, with the right pragmas, and turns driver errors into one line for the user."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, QueuePool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from db.errors import NoDatabase, StoreError

BUSY_TIMEOUT_S = 30.0
"""How long SQLite waits for another process's write transaction, which takes milliseconds."""

CONNECT_TIMEOUT_S = 10
"""How long a PostgreSQL server may take to accept a connection."""

WANTED = "sqlite:///PATH or postgresql://USER@HOST/NAME"

# PostgreSQL's codes after which a transaction can be repeated: serialisation, deadlock, server stopping or starting.
_TRANSIENT = {"40001", "40P01", "57P01", "57P02", "57P03", "08000", "08003", "08006"}


def parse_url(text: str) -> URL:
    """The URL with the driver that this project uses.

    Raises:
        StoreError: It is not a URL of a supported database. The text is not repeated, as it may hold a password.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise StoreError(f"the database URL cannot be read; write {WANTED}") from None
    backend = url.drivername.partition("+")[0]
    if backend == "sqlite":
        return url.set(drivername="sqlite")
    if backend in ("postgres", "postgresql"):
        return url.set(drivername="postgresql+psycopg")
    raise StoreError(f"database kind {backend!r} is not supported; write {WANTED}")


def is_memory(url: URL) -> bool:
    """Whether the database is in this process's memory."""
    return url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:")


def label(url: URL) -> str:
    """The database's name for messages: no user, no password, no options."""
    if url.get_backend_name() == "sqlite":
        return "in memory" if is_memory(url) else str(url.database)
    where = url.host or str(url.query.get("host", "local socket"))
    return f"{url.database} on {where}{f':{url.port}' if url.port else ''}"


def make_engine(url: URL, *, create: bool) -> Engine:
    """An engine that has not connected yet.

    On SQLite every transaction starts with an explicit BEGIN, so that it includes schema changes. With the execution
    option ``write`` it takes the write lock at once, since SQLite cannot wait when a read lock is upgraded later. With
    ``rebuilds`` foreign keys are not enforced: SQLite changes a table by making a new one and dropping the old one.

    Raises:
        NoDatabase: The file or its folder is missing and ``create`` is False.
        StoreError: The folder cannot be made.
    """
    if url.get_backend_name() != "sqlite":
        options: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "tuner"}
        ours = {name: value for name, value in options.items() if name not in url.query}
        try:
            return create_engine(url, pool_pre_ping=True, connect_args=ours)
        except (ImportError, NoSuchModuleError):
            raise StoreError("PostgreSQL needs the package psycopg: pip install 'tuner[postgres]'") from None
    if is_memory(url):
        # One connection for all threads: another connection would be another database.
        engine = create_engine(
            url, poolclass=QueuePool, pool_size=1, max_overflow=0, connect_args={"check_same_thread": False}
        )
    else:
        _make_folder(url, create=create)
        engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    event.listen(engine, "checkin", _bind_sqlite)
    return engine


def _make_folder(url: URL, *, create: bool) -> None:
    path = Path(str(url.database))
    if path.is_dir():
        raise StoreError(f"database {path} is a folder; name a file in it")
    if path.exists():
        return
    if not create:
        raise NoDatabase(f"there is no database at {path}; a sweep creates it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"the folder of database {path} cannot be made: {error.strerror}; set TUNER_DB_URL to another one"
        ) from None


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # the driver's own BEGIN does not include schema changes
    _write_ahead(connection)
    for pragma in ("synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch a new file to the write-ahead log. SQLite does not wait for the lock that this needs, so it is retried
    here, for processes that create a database at the same time."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _begin_sqlite(connection: Any) -> None:
    options = connection.get_execution_options()
    if options.get("rebuilds", False):
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
    write = options.get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _bind_sqlite(connection: sqlite3.Connection | None, _record: Any) -> None:
    """Enforce foreign keys again, for the next user of the connection."""
    if connection is not None:
        connection.execute("PRAGMA foreign_keys = ON")


def is_transient(error: SQLAlchemyError) -> bool:
    """Whether the same transaction may succeed if it is repeated."""
    if not isinstance(error, DBAPIError) or isinstance(error.orig, sqlite3.Error):
        return False
    code = getattr(error.orig, "sqlstate", None)
    return error.connection_invalidated or code in _TRANSIENT or (code is None and _is_operational(error))


def _is_operational(error: DBAPIError) -> bool:
    return type(error.orig).__name__ in ("OperationalError", "ConnectionTimeout")


@contextmanager
def one_line_errors(url: URL) -> Iterator[None]:
    """Turn exceptions of the driver into :class:`StoreError`.

    Raises:
        StoreError: One line: which database, what happened, what to do.
    """
    try:
        yield
    except SQLAlchemyError as error:
        raise StoreError(f"database {label(url)} {_explain(error, url)}") from error


_SQLITE = {
    "SQLITE_NOTADB": "is not a SQLite file; name another one, or move it away",
    "SQLITE_CORRUPT": "is damaged; restore a copy, or move it away",
    "SQLITE_READONLY": "cannot be written; check the permissions of the file and of its folder, or set TUNER_DB_URL",
    "SQLITE_CANTOPEN": "cannot be opened; check that the folder exists and may be written, or set TUNER_DB_URL",
    "SQLITE_PERM": "cannot be opened; check the permissions of the file and of its folder",
    "SQLITE_FULL": "is out of disk space; what was committed before is kept. Free some and resume",
    "SQLITE_BUSY": f"was locked by another process for more than {BUSY_TIMEOUT_S:g} s",
    "SQLITE_IOERR": "cannot be read or written: the disk reports an error",
}

_POSTGRESQL = {
    "28P01": "refuses the password",
    "28000": "refuses the user",
    "3D000": "does not exist; create it with createdb",
    "25006": "is read-only",
    "42501": "does not give this user the rights it needs",
    "53100": "is out of disk space; what was committed before is kept. Free some and resume",
    "53300": "has no free connection",
}


def _is_full(url: URL) -> bool:
    """Whether the disk of a SQLite database has no room for a page."""
    with suppress(OSError):
        disk = os.statvfs(Path(str(url.database)).parent)
        return disk.f_bavail * disk.f_frsize < 1 << 15
    return False


def _explain(error: SQLAlchemyError, url: URL) -> str:
    cause = getattr(error, "orig", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or [type(cause).__name__]
    if isinstance(cause, sqlite3.Error):
        name = getattr(cause, "sqlite_errorname", "") or ""
        if name.startswith("SQLITE_IOERR") and _is_full(url):  # it needs a file beside its own even to read
            name = "SQLITE_FULL"
        for prefix, text in _SQLITE.items():
            if name.startswith(prefix):
                return text
    else:
        code = getattr(cause, "sqlstate", None)
        if code in _POSTGRESQL:
            return _POSTGRESQL[code]
        if code is None and isinstance(error, DBAPIError) and _is_operational(error):
            return f"cannot be reached: {lines[0]}"
    return f"failed: {lines[0]}"
