"""Databases for the store's tests: SQLite in memory and in a file, and PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from db.database import Database
from db.schema import metadata
from db.store import Store

_FILE = pytest.param("file", id="sqlite-file")
_POSTGRES = pytest.param("postgres", id="postgresql", marks=pytest.mark.postgres)


def _url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if kind == "memory":
        return "sqlite://"
    if kind == "file":
        return f"sqlite:///{tmp_path}/results.db"
    return str(request.getfixturevalue("postgres_database")())


@pytest.fixture(scope="session")
def opened_stores() -> Iterator[dict[str, Store]]:
    """The stores that tests take turns with, by kind: making the tables costs more than most tests."""
    stores: dict[str, Store] = {}
    yield stores
    for opened in stores.values():
        opened.close()


@pytest.fixture(params=["memory", _FILE, _POSTGRES])
def store(
    request: pytest.FixtureRequest, opened_stores: dict[str, Store], tmp_path_factory: pytest.TempPathFactory
) -> Store:
    """A store of each kind with empty tables, that knows nothing of the tests before."""
    if request.param not in opened_stores:
        opened_stores[request.param] = Store.open(_url(request.param, request, tmp_path_factory.mktemp("store")))
    opened = opened_stores[request.param]
    with opened.database.engine.begin() as connection:
        if request.param == "postgres":
            connection.execute(text(f"TRUNCATE {', '.join(metadata.tables)} RESTART IDENTITY CASCADE"))
        else:
            for table in reversed(metadata.sorted_tables):
                connection.execute(table.delete())
    return Store(Database(opened.database.url, opened.database.engine, 60.0))


@pytest.fixture(params=[_FILE, _POSTGRES])
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database of each kind that several processes can open."""
    return _url(request.param, request, tmp_path)


@pytest.fixture
def postgres_url(postgres_database: Callable[[], str]) -> str:
    """URL of an empty PostgreSQL database."""
    return postgres_database()
