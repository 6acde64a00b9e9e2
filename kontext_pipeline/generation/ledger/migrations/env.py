"""Run the migrations on the connection that the ledger passes, inside its transaction."""

from alembic import context

from kontext_pipeline.generation.ledger.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
