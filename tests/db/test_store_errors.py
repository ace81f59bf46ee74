"""Databases that cannot be used: each ends in one line that says which one, what happened, and holds no password."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from db.errors import StoreError
from db.store import Store

NOBODY = 65534


def _refusal(url: str, **options: Any) -> str:
    with pytest.raises(StoreError) as caught:
        Store.open(url, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "the database URL cannot be read; write sqlite:///PATH or postgresql://USER@HOST/NAME"),
        ("results.db", "the database URL cannot be read"),
        ("postgresql://u:secret@host:port/db", "the database URL cannot be read"),
        ("mysql://u:secret@host/db", "database kind 'mysql' is not supported; write sqlite:///PATH"),
    ],
)
def test_unusable_urls(url: str, message: str) -> None:
    refusal = _refusal(url)
    assert refusal.startswith(message)
    assert "secret" not in refusal


def test_an_unreachable_server_is_named_without_the_password() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        port = taken.getsockname()[1]
        for url in (
            f"postgresql://user:secret@127.0.0.1:{port}/results",
            f"postgresql://127.0.0.1:{port}/results?user=u&password=secret",
        ):
            refusal = _refusal(url)
            assert refusal.startswith(f"database results on 127.0.0.1:{port} cannot be reached: ")
            assert "secret" not in refusal


@pytest.mark.postgres
def test_a_database_that_the_server_does_not_have(postgres_server: str) -> None:
    refusal = _refusal(postgres_server.replace("/postgres?", "/absent?"))
    assert refusal.startswith("database absent on ")
    assert "does not exist" in refusal


@pytest.mark.postgres
def test_a_server_that_may_not_be_written(postgres_url: str) -> None:
    Store.open(postgres_url).close()
    with Store.open(f"{postgres_url}&options=-cdefault_transaction_read_only%3Don") as store:  # noqa: SIM117
        with pytest.raises(StoreError, match="is read-only"):
            store.catalog.register_space("tiles", "cpu", "f")


def test_a_file_that_is_not_a_database(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_text("not a database " * 100)
    assert _refusal(f"sqlite:///{path}") == (f"database {path} is not a SQLite file; name another one, or move it away")
    assert path.read_text().startswith("not a database")


def test_a_damaged_file(tmp_path: Path, scene: Any) -> None:
    path = tmp_path / "results.db"
    with Store.open(f"sqlite:///{path}") as store:
        scene(store).finished()
    content = bytearray(path.read_bytes())
    content[100:4096] = b"\xff" * 3996  # the list of tables
    path.write_bytes(content)
    assert _refusal(f"sqlite:///{path}") == f"database {path} is damaged; restore a copy, or move it away"


def test_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    assert _refusal(f"sqlite:///{tmp_path}") == f"database {tmp_path} is a folder; name a file in it"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert _refusal(f"sqlite:///{tmp_path}/file/a.db").startswith(
        f"the folder of database {tmp_path}/file/a.db cannot be made: "
    )


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    with Store.open(f"sqlite:///{tmp_path}/a/b/results.db") as store:
        assert store.sweeps.newest() == []


def test_a_lookup_makes_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "results.db"
    assert _refusal(f"sqlite:///{path}", create=False) == f"there is no database at {path}; a sweep creates it"
    assert not path.parent.exists()


@pytest.fixture
def bound_by_permissions() -> Iterator[None]:
    """The test runs as a user whom permissions bind; nothing binds root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder with an empty database that every user can reach and read."""
    folder = Path(tempfile.mkdtemp(prefix="tuner-db-"))
    Store.open(f"sqlite:///{folder}/results.db").close()
    yield folder
    folder.chmod(0o700)
    shutil.rmtree(folder)


@pytest.fixture(params=[0o777, 0o555], ids=["folder-writable", "folder-read-only"])
def read_only_file(open_folder: Path, request: pytest.FixtureRequest) -> Path:
    """A database file that may be read and not written."""
    (open_folder / "results.db").chmod(0o444)
    open_folder.chmod(request.param)
    return open_folder / "results.db"


def test_a_file_that_may_not_be_written(read_only_file: Path, bound_by_permissions: None) -> None:
    with pytest.raises(StoreError, match=rf"database {read_only_file} cannot be .*; check "):
        Store.open(f"sqlite:///{read_only_file}").catalog.register_space("tiles", "cpu", "f")


@pytest.fixture
def read_only_folder(open_folder: Path) -> Path:
    """A folder in which no file can be made."""
    open_folder.chmod(0o555)
    return open_folder


def test_a_folder_that_may_not_be_written(read_only_folder: Path, bound_by_permissions: None) -> None:
    assert _refusal(f"sqlite:///{read_only_folder}/new.db") == (
        f"database {read_only_folder}/new.db cannot be opened; check that the folder exists and may be written, "
        "or set TUNER_DB_URL"
    )


def test_a_full_disk_loses_nothing_that_was_committed(tmp_path: Path, scene: Any) -> None:
    with Store.open(f"sqlite:///{tmp_path}/results.db") as store:
        scene = scene(store)
        sweep_id = scene.sweep()
        store.trials.commit(scene.trial(sweep_id, 0))

        @event.listens_for(store.database.engine, "checkout")
        def _limit(connection: sqlite3.Connection, _record: Any, _proxy: Any) -> None:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {max(pages, limit)}")

        limit = sqlite3.connect(tmp_path / "results.db").execute("PRAGMA page_count").fetchone()[0] + 20
        big = scene.measurement(samples_us=tuple(range(5000)))

        def fill() -> None:
            for number in range(1, 1000):
                store.trials.commit(scene.trial(sweep_id, number, measurements=(big,)))

        with pytest.raises(StoreError, match=r"results.db is out of disk space; what was committed before is kept"):
            fill()
        trials = store.trials.of(sweep_id, details=True)
        refused = len(trials)
        assert refused > 1
        assert [t.number for t in trials] == list(range(refused))
        assert all(t.measurements and t.build for t in trials)

        limit += 1000
        store.trials.commit(scene.trial(sweep_id, refused))
        assert store.trials.count(sweep_id) == {"PASSED": refused + 1}


def test_a_writer_that_never_ends_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("db.engine.BUSY_TIMEOUT_S", 0.01)
    path = tmp_path / "results.db"
    with Store.open(f"sqlite:///{path}") as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="was locked by another process for more than"):
            store.catalog.register_space("tiles", "cpu", "f")
        other.execute("ROLLBACK")
        assert store.catalog.register_space("tiles", "cpu", "f") > 0
        other.close()
