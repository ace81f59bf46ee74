"""The tables of revision 0001, from which old databases are upgraded."""

import sqlalchemy as sa
from alembic import op

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Creates all tables, parents first."""
    _create_what_is_named()
    _create_results()
    _create_outcomes()


def _create_what_is_named() -> None:
    op.create_table(
        "definition",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("op_type", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_definition"),
        sa.UniqueConstraint("name", "digest", name="uq_definition_name"),
    )
    op.create_table(
        "environment",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("hardware", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("compute_capability", sa.Text(), nullable=False),
        sa.Column("units", sa.Integer(), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=False),
        sa.Column("driver", sa.Text(), nullable=False),
        sa.Column("versions", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_environment"),
        sa.UniqueConstraint("fingerprint", name="uq_environment_fingerprint"),
    )
    op.create_table(
        "method",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_method"),
        sa.UniqueConstraint("hash", name="uq_method_hash"),
    )
    op.create_table(
        "search_space",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_search_space"),
        sa.UniqueConstraint("name", "target", "fingerprint", name="uq_search_space_name"),
    )
    op.create_table(
        "variant",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("search_space_id", _KEY, nullable=False),
        sa.Column("config_hash", sa.Text(), nullable=False),
        sa.Column("config", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_variant"),
        sa.ForeignKeyConstraint(["search_space_id"], ["search_space.id"], name="fk_variant_search_space_id"),
        sa.UniqueConstraint("search_space_id", "config_hash", name="uq_variant_search_space_id"),
    )
    op.create_table(
        "workload",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("definition_id", _KEY, nullable=False),
        sa.Column("uuid", sa.Text(), nullable=False),
        sa.Column("axes", sa.Text(), nullable=False),
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_workload"),
        sa.ForeignKeyConstraint(["definition_id"], ["definition.id"], name="fk_workload_definition_id"),
        sa.UniqueConstraint("definition_id", "uuid", name="uq_workload_definition_id"),
    )
    op.create_table(
        "sweep",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("definition_id", _KEY, nullable=False),
        sa.Column("search_space_id", _KEY, nullable=False),
        sa.Column("environment_id", _KEY, nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.Column("budget_s", sa.Float(53)),
        sa.Column("max_trials", sa.Integer()),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("started_at", sa.Float(53), nullable=False),
        sa.Column("finished_at", sa.Float(53)),
        sa.Column("owner", sa.Text()),
        sa.Column("heartbeat_at", sa.Float(53)),
        sa.PrimaryKeyConstraint("id", name="pk_sweep"),
        sa.ForeignKeyConstraint(["definition_id"], ["definition.id"], name="fk_sweep_definition_id"),
        sa.ForeignKeyConstraint(["environment_id"], ["environment.id"], name="fk_sweep_environment_id"),
        sa.ForeignKeyConstraint(["search_space_id"], ["search_space.id"], name="fk_sweep_search_space_id"),
    )
    op.create_index("ix_sweep_definition_id", "sweep", ["definition_id", "finished_at"])
    op.create_index("ix_sweep_search_space_id", "sweep", ["search_space_id", "finished_at"])


def _create_results() -> None:
    op.create_table(
        "build",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("variant_id", _KEY, nullable=False),
        sa.Column("toolchain", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("build_s", sa.Float(53), nullable=False),
        sa.Column("artifact", sa.Text()),
        sa.Column("registers", sa.Integer()),
        sa.Column("spill_bytes", sa.BigInteger()),
        sa.Column("smem_bytes", sa.BigInteger()),
        sa.Column("figures", sa.Text(), nullable=False),
        sa.Column("log", sa.Text(), nullable=False),
        sa.Column("built_at", sa.Float(53), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_build"),
        sa.ForeignKeyConstraint(["variant_id"], ["variant.id"], name="fk_build_variant_id"),
        sa.UniqueConstraint("variant_id", "toolchain", name="uq_build_variant_id"),
    )
    op.create_table(
        "trial",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("sweep_id", _KEY, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("variant_id", _KEY, nullable=False),
        sa.Column("build_id", _KEY),
        sa.Column("regime", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("objective", sa.Float(53)),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("started_at", sa.Float(53), nullable=False),
        sa.Column("finished_at", sa.Float(53), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_trial"),
        sa.ForeignKeyConstraint(["build_id"], ["build.id"], name="fk_trial_build_id"),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweep.id"], name="fk_trial_sweep_id"),
        sa.ForeignKeyConstraint(["variant_id"], ["variant.id"], name="fk_trial_variant_id"),
        sa.UniqueConstraint("sweep_id", "number", name="uq_trial_sweep_id"),
    )
    op.create_index("ix_trial_sweep_id", "trial", ["sweep_id", "regime", "state", "objective"])
    op.create_table(
        "measurement",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("variant_id", _KEY, nullable=False),
        sa.Column("environment_id", _KEY, nullable=False),
        sa.Column("method_id", _KEY, nullable=False),
        sa.Column("workload_id", _KEY, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("samples", sa.LargeBinary()),
        sa.Column("median_us", sa.Float(53)),
        sa.Column("low_us", sa.Float(53)),
        sa.Column("high_us", sa.Float(53)),
        sa.Column("max_abs_error", sa.Float(53)),
        sa.Column("max_rel_error", sa.Float(53)),
        sa.Column("matched_ratio", sa.Float(53)),
        sa.Column("conditions", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("measured_at", sa.Float(53), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_measurement"),
        sa.ForeignKeyConstraint(["environment_id"], ["environment.id"], name="fk_measurement_environment_id"),
        sa.ForeignKeyConstraint(["method_id"], ["method.id"], name="fk_measurement_method_id"),
        sa.ForeignKeyConstraint(["variant_id"], ["variant.id"], name="fk_measurement_variant_id"),
        sa.ForeignKeyConstraint(["workload_id"], ["workload.id"], name="fk_measurement_workload_id"),
        sa.UniqueConstraint(
            "variant_id", "environment_id", "method_id", "workload_id", name="uq_measurement_variant_id"
        ),
    )
    op.create_table(
        "trial_measurement",
        sa.Column("trial_id", _KEY, nullable=False),
        sa.Column("measurement_id", _KEY, nullable=False),
        sa.PrimaryKeyConstraint("trial_id", "measurement_id", name="pk_trial_measurement"),
        sa.ForeignKeyConstraint(["measurement_id"], ["measurement.id"], name="fk_trial_measurement_measurement_id"),
        sa.ForeignKeyConstraint(["trial_id"], ["trial.id"], name="fk_trial_measurement_trial_id"),
        sqlite_with_rowid=False,
    )


def _create_outcomes() -> None:
    op.create_table(
        "finalist",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("sweep_id", _KEY, nullable=False),
        sa.Column("variant_id", _KEY, nullable=False),
        sa.Column("workload_id", _KEY, nullable=False),
        sa.Column("environment_id", _KEY, nullable=False),
        sa.Column("method_id", _KEY, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("samples", sa.LargeBinary()),
        sa.Column("median_us", sa.Float(53)),
        sa.Column("low_us", sa.Float(53)),
        sa.Column("high_us", sa.Float(53)),
        sa.Column("max_abs_error", sa.Float(53)),
        sa.Column("max_rel_error", sa.Float(53)),
        sa.Column("matched_ratio", sa.Float(53)),
        sa.Column("conditions", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("measured_at", sa.Float(53), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_finalist"),
        sa.ForeignKeyConstraint(["environment_id"], ["environment.id"], name="fk_finalist_environment_id"),
        sa.ForeignKeyConstraint(["method_id"], ["method.id"], name="fk_finalist_method_id"),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweep.id"], name="fk_finalist_sweep_id"),
        sa.ForeignKeyConstraint(["variant_id"], ["variant.id"], name="fk_finalist_variant_id"),
        sa.ForeignKeyConstraint(["workload_id"], ["workload.id"], name="fk_finalist_workload_id"),
        sa.UniqueConstraint("sweep_id", "variant_id", "workload_id", name="uq_finalist_sweep_id"),
    )
    op.create_table(
        "winner",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("sweep_id", _KEY, nullable=False),
        sa.Column("regime", sa.Text(), nullable=False),
        sa.Column("variant_id", _KEY, nullable=False),
        sa.Column("median_us", sa.Float(53), nullable=False),
        sa.Column("low_us", sa.Float(53), nullable=False),
        sa.Column("high_us", sa.Float(53), nullable=False),
        sa.Column("default_median_us", sa.Float(53)),
        sa.Column("default_low_us", sa.Float(53)),
        sa.Column("default_high_us", sa.Float(53)),
        sa.Column("size_axis", sa.Text()),
        sa.Column("min_size", sa.BigInteger()),
        sa.Column("max_size", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name="pk_winner"),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweep.id"], name="fk_winner_sweep_id"),
        sa.ForeignKeyConstraint(["variant_id"], ["variant.id"], name="fk_winner_variant_id"),
        sa.UniqueConstraint("sweep_id", "regime", name="uq_winner_sweep_id"),
    )
    op.create_table(
        "winner_workload",
        sa.Column("winner_id", _KEY, nullable=False),
        sa.Column("workload_id", _KEY, nullable=False),
        sa.Column("median_us", sa.Float(53), nullable=False),
        sa.Column("low_us", sa.Float(53), nullable=False),
        sa.Column("high_us", sa.Float(53), nullable=False),
        sa.Column("default_median_us", sa.Float(53)),
        sa.PrimaryKeyConstraint("winner_id", "workload_id", name="pk_winner_workload"),
        sa.ForeignKeyConstraint(["winner_id"], ["winner.id"], name="fk_winner_workload_winner_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["workload_id"], ["workload.id"], name="fk_winner_workload_workload_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "export",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("sweep_id", _KEY, nullable=False),
        sa.Column("solution", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("made_from", sa.Text(), nullable=False),
        sa.Column("verification", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("exported_at", sa.Float(53), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_export"),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweep.id"], name="fk_export_sweep_id"),
    )
    op.create_index("ix_export_sweep_id", "export", ["sweep_id"])
