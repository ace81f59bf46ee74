"""Input profiles: what a workload's inputs look like, and winners for one profile beside those for the mix."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """All workloads so far have the inputs of their dataset; all winners so far are for all workloads."""
    op.add_column("workload", sa.Column("profile", sa.Text(), nullable=False, server_default="recorded"))
    with op.batch_alter_table("winner") as table:
        table.add_column(sa.Column("profile", sa.Text(), nullable=False, server_default=""))
        table.drop_constraint("uq_winner_sweep_id", type_="unique")
        table.create_unique_constraint("uq_winner_sweep_id", ["sweep_id", "regime", "profile"])
