"""Sizes at which a winner must not be used, though they are near to those that it was measured on."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Of winners so far nothing is known."""
    op.add_column("winner", sa.Column("unfit_sizes", sa.Text(), nullable=False, server_default="[]"))
