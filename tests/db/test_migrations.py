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
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from db import migrate, schema
from db.engine import make_engine, parse_url
from db.errors import StoreError
from db.records import method_hash
from db.store import Store
from tests.db import first_tables

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
    with store.database.engine.connect() as connection:
        return {c["name"] for c in migrate.inspect(connection).get_columns(table)}


def _execute(store: Store, statement: str) -> None:
    with store.database.engine.begin() as connection:
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


def make_first_tables(connection: Connection) -> None:
    """What a database of revision 0001 has."""
    with Operations.context(MigrationContext.configure(connection)):
        first_tables.upgrade()
    migrate.mark(connection, "0001")


def differences(store: Store) -> list[Any]:
    """Between the tables of a database and those of the code."""
    with store.database.engine.connect() as connection:
        options = {"version_table": schema.VERSION_TABLE, "compare_type": True}
        found: list[Any] = compare_metadata(MigrationContext.configure(connection, opts=options), schema.metadata)
    return found


def test_a_new_database_has_the_tables_of_the_code(store: Store) -> None:
    assert differences(store) == []
    assert store.schema_version() == schema.REVISIONS[-1]


def test_migrations_from_the_first_one_make_the_tables_of_the_code(shared_url: str) -> None:
    engine = make_engine(parse_url(shared_url), create=True)
    with engine.connect().execution_options(write=True) as old, old.begin():
        make_first_tables(old)
    engine.dispose()
    with Store.open(shared_url, upgrade=True) as store:
        assert differences(store) == []
        assert store.schema_version() == schema.REVISIONS[-1]


def test_upgrading_what_is_current_changes_nothing(store: Store, scene: Any) -> None:
    sweep_id = scene(store).finished()
    store.upgrade()
    assert store.schema_version() == schema.REVISIONS[-1]
    assert len(store.trials.of(sweep_id)) == 4


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
        assert len(store.trials.of(sweep_id)) == 4
        assert len(store.winners.of(sweep_id)) == 1


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
        assert len(store.trials.of(sweep_id)) == 4


def test_an_upgrade_that_fails_changes_nothing(shared_url: str, scene: Any, next_revision: Callable[..., None]) -> None:
    with Store.open(shared_url) as store:
        sweep_id, before = scene(store).finished(), store.schema_version()
        next_revision('    op.execute("INSERT INTO sweep (id) VALUES (1)")')
        with pytest.raises(StoreError, match="failed"):
            store.upgrade()
        assert store.schema_version() == before
        assert "note" not in _columns(store)
        assert len(store.trials.of(sweep_id)) == 4


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


@pytest.fixture
def before_contents(tmp_path: Path, scene: Any) -> str:
    """URL of a database of revision 0002 with a finished sweep."""
    with Store.open("sqlite://") as new:
        scene(new).finished()
        engine = make_engine(parse_url(f"sqlite:///{tmp_path}/old.db"), create=True)
        with (
            engine.connect().execution_options(write=True) as old,
            old.begin(),
            new.database.engine.connect() as source,
        ):
            make_first_tables(old)
            migrate.upgrade(old, "0002")
            for table in schema.metadata.sorted_tables:
                names = [c["name"] for c in migrate.inspect(old).get_columns(table.name)]
                columns = f"({', '.join(names)}) VALUES ({', '.join(':' + n for n in names)})"
                for row in source.execute(text(f"SELECT {', '.join(names)} FROM {table.name}")).mappings():
                    old.execute(text(f"INSERT INTO {table.name} {columns}"), dict(row))
        engine.dispose()
    return f"sqlite:///{tmp_path}/old.db"


def test_figures_from_before_contents_were_known_are_kept_and_not_reused(before_contents: str, scene: Any) -> None:
    with Store.open(before_contents) as store:
        assert len(store.trials.of(1)) == 4
        assert len(store.winners.of(1)[0].workloads) == 2
        there = scene(store)  # registers the workloads without a content, as they were
        key = {"definition_id": there.definition_id, "space_id": there.space_id, "config_hash": "hash0"}
        way = {"environment": there.environment, "method": method_hash(there.measurement().method)}
        assert len(store.measurements.known(**key, **way)) == 2
        store.catalog.register_workload(there.definition_id, "w1", {"seq_len": 1}, "shipped", "abc")
        assert [m.workload for m in store.measurements.known(**key, **way)] == ["w2"]
        assert {e.content for e in store.measurements.all_of(*key.values())} == {""}
        with pytest.raises(IntegrityError):
            _execute(store, "DELETE FROM workload")  # foreign keys hold again after the upgrade


def test_method_of_before_there_were_revisions_has_none(before_contents: str) -> None:
    with Store.open(before_contents) as store:
        _execute(store, 'UPDATE method SET body = \'{"mode":"host"}\'')
        assert {m.method.revision for t in store.trials.of(1) for m in t.measurements} == {0}
