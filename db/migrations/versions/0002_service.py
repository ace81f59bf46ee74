"""What the HTTP service needs: tokens, and how a sweep it started is recognised and stopped."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """One table more, two columns of ``sweep`` more."""
    op.create_table(
        "api_token",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("secret_hash", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(53), nullable=False),
        sa.Column("expires_at", sa.Float(53)),
        sa.Column("revoked_at", sa.Float(53)),
        sa.PrimaryKeyConstraint("id", name="pk_api_token"),
        sa.UniqueConstraint("key", name="uq_api_token_key"),
    )
    op.add_column("sweep", sa.Column("ticket", sa.Text()))
    op.add_column("sweep", sa.Column("stop_requested_at", sa.Float(53)))
    op.create_index("ix_sweep_ticket", "sweep", ["ticket"], unique=True)
