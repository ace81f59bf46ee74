"""Where the oldest databases start from. A new one gets the tables of today at once (``db/migrate.py``)."""

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Nothing: a database of this revision has its tables."""
