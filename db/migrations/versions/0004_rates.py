"""A machine's measured rates, for the roofline of what has no data sheet."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Nothing is known of the machines that are recorded; their next sweep measures it."""
    op.add_column("environment", sa.Column("rates", sa.Text(), nullable=False, server_default="{}"))
