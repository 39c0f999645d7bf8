"""Brings a database to the newest schema by running the packaged Alembic migrations."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DatabaseError

from dsp.kernel.errors import UnavailableError
from dsp.store.database import BUSY_TIMEOUT_SECONDS, create_engine

#: Any number that nobody else locks.
_LOCK = 0x647370
_TURN_SECONDS = 60


def upgrade(url: str) -> str:
    """Migrate to the newest schema in one transaction, creating an SQLite file if need be; return its revision.

    Safe to run from several processes at once: they take turns. A migration only adds, so that processes of the
    version before go on meanwhile; a database that is newer than this version stays as it is.

    Raises:
        UnavailableError: the database cannot be opened or stayed locked.
    """
    engine = create_engine(url)
    config = _config()
    try:
        with engine.begin() as connection:
            _take_turn(connection)
            found = MigrationContext.configure(connection).get_current_revision()
            if found is None or not serves(found):
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                found = head()
        return found
    except DatabaseError as fault:
        raise UnavailableError(f"cannot migrate the database: {fault.orig}") from fault
    finally:
        engine.dispose()


def head() -> str:
    """Return the newest revision that this version of the software knows."""
    return str(ScriptDirectory.from_config(_config()).get_current_head())


def current(engine: Engine) -> str | None:
    """Return the revision the database is at; None for an empty one."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def serves(revision: str | None) -> bool:
    """Return whether this version of the software can run on a database of that revision: the newest known, or newer.

    Migrations only add, and are numbered: while versions are rolled, the older one runs on the newer one's schema.
    """
    return revision is not None and revision.partition("_")[0] >= head().partition("_")[0]


def _take_turn(connection: Connection) -> None:
    """Wait for others who migrate. On SQLite the transaction has the write lock already."""
    if connection.dialect.name != "postgresql":
        return
    connection.execute(text(f"SET LOCAL lock_timeout = '{_TURN_SECONDS}s'"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    # A change of a table waits for its users no longer than they wait for each other: who comes after it waits as well.
    connection.execute(text(f"SET LOCAL lock_timeout = '{BUSY_TIMEOUT_SECONDS:.0f}s'"))
    connection.execute(text("SET LOCAL statement_timeout = 0"))


def _config() -> Config:
    config = Config()
    # Alembic treats % as interpolation.
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config
