"""Run by Alembic: applies the migrations on the connection and in the transaction that dsp.store.migrate gives."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True, render_as_batch=True)
context.run_migrations()
