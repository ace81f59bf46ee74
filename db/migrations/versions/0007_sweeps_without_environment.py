"""Sweeps whose workers never came up: what a sweep measures on is known once they have."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """A sweep is stored before its workers start, so it may have no environment."""
    with op.batch_alter_table("sweep") as table:
        table.alter_column("environment_id", existing_type=sa.BigInteger(), nullable=True)
