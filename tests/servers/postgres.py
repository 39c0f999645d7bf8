"""PostgreSQL for tests: see deploy/dev/postgres.py. Each test gets its own database."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest

from deploy.dev import postgres as server
from deploy.dev.postgres import PASSWORD
from dsp.store.migrate import upgrade
from tests.servers import absent

__all__ = ["PASSWORD", "Postgres", "postgres"]

#: What tells whether a database has the schema that it began with.
_SCHEMA = "SELECT array_agg(tablename ORDER BY tablename), (SELECT version_num FROM alembic_version) FROM pg_tables"
#: Deletes all rows and lets ids begin at 1 again; it touches no more files than it must, which are slow to make.
_EMPTY = """
SET session_replication_role = replica;
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version' LOOP
        EXECUTE format('DELETE FROM %I', name);
    END LOOP;
    PERFORM setval(sequencename::regclass, 1, false) FROM pg_sequences;
END $$;
INSERT INTO catalogue_revision (id, revision) VALUES (1, 0);
"""


class Postgres(server.Postgres):
    """A server, and the databases that tests have of it."""

    def __init__(self, programs: Path, root: Path, account: str | None) -> None:
        super().__init__(programs, root, account)
        self._numbers = count(1)
        self._schema: object = None
        self._free: list[str] = []

    def empty(self) -> str:
        """Create an empty database and return its name."""
        name = f"test_{next(self._numbers)}"
        self.sql(f"CREATE DATABASE {name}")
        return name

    def migrated(self) -> str:
        """Return the name of a database with the newest schema and no rows."""
        if self._free:
            return self._free.pop()
        name = self.empty()
        upgrade(self.address(name))
        self._schema = self._schema or self.sql(_SCHEMA, name)
        return name

    def give_back(self, name: str) -> None:
        """Cut a database's connections; empty it for the next test, or drop it if its schema has changed."""
        self.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        if self._has_schema(name):
            self.sql(_EMPTY, name)
            self._free.append(name)
        else:
            self.sql(f"DROP DATABASE {name} WITH (FORCE)")

    def _has_schema(self, name: str) -> bool:
        try:
            return self._schema is not None and self.sql(_SCHEMA, name) == self._schema
        except psycopg.errors.UndefinedTable:
            return False


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running server, the same for all tests of a process; a test that ends it must start it again."""
    try:
        with server.running(Postgres) as found:
            yield found
    except LookupError as fault:
        absent(str(fault))
