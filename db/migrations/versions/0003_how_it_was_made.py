"""What reuse depends on: a workload's content, and the variables that decide how fast libraries compute."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Workloads are told apart by their content too; what is there has none that is known, and is never reused."""
    with op.batch_alter_table("workload") as table:
        table.add_column(sa.Column("content", sa.Text(), nullable=False, server_default=""))
        table.drop_constraint("uq_workload_definition_id", type_="unique")
        table.create_unique_constraint("uq_workload_definition_id", ["definition_id", "uuid", "content"])
    op.add_column("environment", sa.Column("variables", sa.Text(), nullable=False, server_default="{}"))
