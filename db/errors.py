"""Errors that callers of the store can catch."""


class StoreError(Exception):
    """The database cannot do what was asked; the message is one line for the user and holds no password."""


class NoDatabase(StoreError):  # noqa: N818 - as NoSuchSweep
    """There is no database at the URL, or it has no tables yet, and none is to be made."""


class NoSuchSweep(StoreError):  # noqa: N818 - as SweepBusy
    """There is no sweep with this ID."""


class SweepBusy(StoreError):  # noqa: N818 - names a state of the sweep, as the callers speak of it
    """Another process holds the sweep, or has taken it over."""
