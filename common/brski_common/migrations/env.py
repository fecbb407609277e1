"""What Alembic runs: the revisions, on the connection and in the transaction that `upgrade` opened."""

from alembic import context

attributes = context.config.attributes
context.configure(
    connection=attributes["connection"],
    version_table=attributes["version_table"],
    transactional_ddl=True,  # SQLite too: the driver does not commit behind our back
)
context.run_migrations()
