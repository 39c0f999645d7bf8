"""Alembic migrations; file names begin with their order."""
