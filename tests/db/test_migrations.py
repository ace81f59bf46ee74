"""The schema: what the migrations make is what the code uses, and who may change it when."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from db import migrate, schema
from db.errors import StoreError
from db.store import Store

_NEXT = """
import sqlalchemy as sa
from alembic import op

revision = "next"
down_revision = "{last}"


def upgrade() -> None:
    op.add_column("sweep", sa.Column("note", sa.Text()))
{then}
"""


def _columns(store: Store, table: str = "sweep") -> set[str]:
    with store._engine.connect() as connection:
        return {c["name"] for c in migrate.inspect(connection).get_columns(table)}


def _execute(store: Store, statement: str) -> None:
    with store._engine.begin() as connection:
        connection.execute(text(statement))


@pytest.fixture
def next_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Plays a later version of this project: one revision more, which may fail after its first change."""

    def install(then: str = "") -> None:
        folder = tmp_path / "migrations"
        shutil.copytree(migrate.SCRIPTS, folder, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "versions" / "next.py").write_text(_NEXT.format(last=schema.REVISIONS[-1], then=then))
        monkeypatch.setattr(migrate, "SCRIPTS", folder)
        monkeypatch.setattr(schema, "REVISIONS", (*schema.REVISIONS, "next"))

    return install


def test_the_revisions_are_those_of_the_folder() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrate.SCRIPTS))
    newest_first = [s.revision for s in ScriptDirectory.from_config(config).walk_revisions()]
    assert tuple(reversed(newest_first)) == schema.REVISIONS


def test_migrations_from_the_first_one_make_the_tables_of_the_code(store: Store) -> None:
    with store._engine.connect() as connection:
        options = {"version_table": schema.VERSION_TABLE, "compare_type": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, schema.metadata) == []
    assert store.schema_version() == schema.REVISIONS[-1]


def test_upgrading_what_is_current_changes_nothing(store: Store, scene: Any) -> None:
    sweep_id = scene(store).finished()
    store.upgrade()
    assert store.schema_version() == schema.REVISIONS[-1]
    assert len(store.trials(sweep_id)) == 4


def test_an_older_sqlite_file_is_upgraded_by_opening_it(
    tmp_path: Path, scene: Any, next_revision: Callable[..., None]
) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    with Store.open(url) as store:
        sweep_id = scene(store).finished()
    next_revision()
    with Store.open(url, create=False) as store:
        assert store.schema_version() == "next"
        assert "note" in _columns(store)
        assert len(store.trials(sweep_id)) == 4
        assert len(store.winners(sweep_id)) == 1


@pytest.mark.postgres
def test_an_older_postgresql_waits_for_the_command(
    postgres_url: str, scene: Any, next_revision: Callable[..., None]
) -> None:
    with Store.open(postgres_url) as store:
        sweep_id = scene(store).finished()
    next_revision()
    with pytest.raises(StoreError, match="and 'next' is needed: run tuner db upgrade"):
        Store.open(postgres_url)
    with Store.open(postgres_url, upgrade=True) as store:
        assert store.schema_version() == "next"
        assert "note" in _columns(store)
        assert len(store.trials(sweep_id)) == 4


def test_an_upgrade_that_fails_changes_nothing(shared_url: str, scene: Any, next_revision: Callable[..., None]) -> None:
    with Store.open(shared_url) as store:
        sweep_id, before = scene(store).finished(), store.schema_version()
        next_revision('    op.execute("INSERT INTO sweep (id) VALUES (1)")')
        with pytest.raises(StoreError, match="failed"):
            store.upgrade()
        assert store.schema_version() == before
        assert "note" not in _columns(store)
        assert len(store.trials(sweep_id)) == 4


def test_a_newer_schema_is_refused(shared_url: str) -> None:
    with Store.open(shared_url) as store:
        _execute(store, f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(StoreError, match=r"has schema '9999', and this version knows up to '\d+'; upgrade tuner"):
        Store.open(shared_url, upgrade=True)


def test_tables_of_another_program_are_left_alone(shared_url: str) -> None:
    with Store.open(shared_url) as store:
        _execute(store, f"DROP TABLE {schema.VERSION_TABLE}")
    with pytest.raises(StoreError, match=r"holds a table 'api_token' of another program; name another database"):
        Store.open(shared_url)


@pytest.mark.postgres
def test_a_lookup_makes_no_tables(postgres_url: str) -> None:
    with pytest.raises(StoreError, match="holds no results yet"):
        Store.open(postgres_url, create=False)
    with Store.open(postgres_url) as store:
        assert store.schema_version() == schema.REVISIONS[-1]


def test_processes_that_start_together_create_the_tables_once(shared_url: str) -> None:
    start = threading.Barrier(4)
    versions: list[str | None] = []

    def open_it() -> None:
        start.wait()
        with Store.open(shared_url) as store:
            versions.append(store.schema_version())

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert versions == [schema.REVISIONS[-1]] * 4
