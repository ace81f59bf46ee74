"""The version of the schema: read and first made without Alembic, changed with it."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Column, Connection, MetaData, PrimaryKeyConstraint, String, Table, inspect, text

from db import schema
from db.errors import StoreError
from db.schema import VERSION_TABLE, metadata

SCRIPTS = Path(__file__).parent / "migrations"
"""Alembic's folder."""

_LOCK_KEY = 0x74756E6572
"""Key of the advisory lock for changes of PostgreSQL's schema: the letters "tuner"."""


def schema_version(connection: Connection) -> str | None:
    """The revision that the database holds, None for one without our tables.

    Raises:
        StoreError: There are tables of the same names that the migrations did not make.
    """
    tables = set(inspect(connection).get_table_names())
    if VERSION_TABLE in tables:
        version = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
        if version is not None:
            return str(version)
    foreign = sorted(tables & set(metadata.tables))
    if foreign:
        raise StoreError(f"the database holds a table {foreign[0]!r} of another program; name another database")
    return None


def is_current(version: str | None) -> bool:
    """Whether the database is at the newest revision, False if it is older or empty.

    Raises:
        StoreError: The revision is not known here: a newer version of this project wrote it.
    """
    if version is not None and version not in schema.REVISIONS:
        raise StoreError(
            f"the database has schema {version!r}, and this version knows up to {schema.REVISIONS[-1]!r}; "
            "upgrade tuner, or name another database"
        )
    return version == schema.REVISIONS[-1]


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Bring the schema to a revision within the caller's transaction, so completely or not at all. An empty database
    gets the newest tables at once.

    On PostgreSQL an advisory lock makes a second process wait; it then finds nothing to do.

    Raises:
        StoreError: Rows would be left that refer to nothing.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
    if schema_version(connection) is None:
        metadata.create_all(connection)
        mark(connection, schema.REVISIONS[-1])
        return
    # Imported here: it takes a tenth of a second, which a new database and a lookup need not wait for.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
    if connection.dialect.name == "sqlite":
        dangling = connection.execute(text("PRAGMA foreign_key_check")).first()
        if dangling is not None:
            raise StoreError(f"the upgrade would leave a row of table {dangling[0]!r} without what it refers to")


def mark(connection: Connection, revision: str) -> None:
    """Note the revision of a database that has none, in the table that Alembic would make."""
    key = PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc")
    table = Table(VERSION_TABLE, MetaData(), Column("version_num", String(32), nullable=False), key)
    table.create(connection, checkfirst=True)
    connection.execute(table.insert().values(version_num=revision))
