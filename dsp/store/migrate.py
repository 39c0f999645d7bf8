"""Brings a database to the newest schema by running the packaged Alembic migrations."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine
from sqlalchemy.exc import DatabaseError

from dsp.kernel.errors import UnavailableError
from dsp.store.database import create_engine


def upgrade(url: str) -> str:
    """Migrate to the newest schema in one transaction, creating the database if need be; return its revision.

    Safe to run from several processes at once: they queue on the database's write lock.

    Raises:
        UnavailableError: the database cannot be opened or stayed locked.
    """
    engine = create_engine(url)
    config = _config()
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        return head()
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


def _config() -> Config:
    config = Config()
    # Alembic treats % as interpolation.
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config
