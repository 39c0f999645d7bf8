"""The schema, one Alembic migration a file, oldest first. Applied by dsp.store.migrate."""
