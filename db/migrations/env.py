"""Run by Alembic for every command: uses the caller's connection and its transaction."""

from alembic import context

from db.schema import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    # The caller's BEGIN covers schema changes on SQLite too, which Alembic does not assume by itself.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
