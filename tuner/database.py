"""The database of a command that needs what others left there: it never makes one."""

from __future__ import annotations

from contextlib import suppress

from db.engine import make_engine, parse_url
from db.errors import NoDatabase
from db.store import Store
from tuner.settings import load
from workers.errors import NoPlaceError


def open_existing(db: str | None) -> Store:
    """The store behind a URL, or behind the default one (that of ``TUNER_DB_URL``, if it is set) for None.

    Where nobody has swept yet, the default database is missing and counts as empty; it is not made. One that is named
    and missing is a mistake.

    Raises:
        StoreError: It is named and missing, or cannot be used, or there is no place for the default one.
    """
    url = load({"db": db}).db
    try:
        return Store.open(url, create=False)
    except NoDatabase:
        if url != _default():
            raise
        make_engine(parse_url(url), create=True).dispose()  # makes no file, but says where there could be none
        return Store.open("sqlite://")


def _default() -> str | None:
    """The URL that counts if none is named; None for a user who has no place for a database."""
    with suppress(NoPlaceError):
        return load({}).db
    return None
