"""The database of a command that only reads: it never makes one."""

from __future__ import annotations

from db.errors import NoDatabase
from db.store import Store
from tuner.settings import load


def open_to_read(db: str | None) -> Store:
    """The store behind a URL, or behind the default one for None.

    Where nobody has swept yet, the default database is missing and counts as empty; it is not made. One that is named
    and missing is a mistake.

    Raises:
        StoreError: It is named and missing, or cannot be used.
    """
    url = load({"db": db}).db
    try:
        return Store.open(url, create=False)
    except NoDatabase:
        if db is not None:
            raise
        return Store.open("sqlite://")
