"""Puts the synthetic rows into a database, by the quickest way that each kind has."""

from __future__ import annotations

import itertools
import sqlite3
from collections import defaultdict
from collections.abc import Iterator

from benchmarks.service_load.rows import Row, Scale, columns, rows
from db.store import Store

BATCH = 100_000


def fill_postgres(url: str, scale: Scale) -> None:
    """Creates the tables and fills them with COPY."""
    import psycopg

    Store.open(url, upgrade=True).close()
    with psycopg.connect(url) as connection:
        for table, batch in _batches(scale):
            statement = f"COPY {table} ({', '.join(columns()[table])}) FROM STDIN (FORMAT BINARY)"
            with connection.cursor() as cursor:
                types = [_types(connection, table)[name] for name in columns()[table]]
                with cursor.copy(statement) as copy:
                    copy.set_types(types)
                    for row in batch:
                        copy.write_row(row)
        for table, names in columns().items():
            if names[0] == "id":
                connection.execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}")
        connection.commit()
        connection.autocommit = True
        connection.execute("VACUUM ANALYZE")


def _types(connection: object, table: str) -> dict[str, str]:
    query = "SELECT column_name, udt_name FROM information_schema.columns WHERE table_name = %s"
    return dict(connection.execute(query, (table,)).fetchall())  # type: ignore[attr-defined]


def fill_sqlite(path: str, scale: Scale) -> None:
    """Creates the tables and fills them in one transaction."""
    Store.open(f"sqlite:///{path}").close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        for table, batch in _batches(scale):
            names = columns()[table]
            marks = ", ".join("?" * len(names))
            connection.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", batch)
        connection.commit()
        connection.execute("ANALYZE")
    connection.close()


def _batches(scale: Scale) -> Iterator[tuple[str, list[Row]]]:
    """Rows by table, parents before children within each batch."""
    everything = rows(scale)
    order = list(columns())
    while chunk := list(itertools.islice(everything, BATCH)):
        by_table: dict[str, list[Row]] = defaultdict(list)
        for table, row in chunk:
            by_table[table].append(row)
        yield from sorted(by_table.items(), key=lambda item: order.index(item[0]))
