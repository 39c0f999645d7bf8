"""Engines and sessions. SQLite is set up so that several processes can share one file; other databases pass through."""

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event, make_url
from sqlalchemy import create_engine as sqlalchemy_engine
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.orm import Session, sessionmaker

from dsp.kernel.config import Platform
from dsp.kernel.errors import ConfigError, Fault
from dsp.kernel.sqlite import use_wal

#: How long a writer waits for another process's transaction before it fails.
BUSY_TIMEOUT_SECONDS = 5.0
_BEGIN = "dsp_sqlite_begin"


def url(platform: Platform) -> str:
    """Return the database's URL: the configured one, or SQLite inside the data directory."""
    return platform.database_url or f"sqlite:///{platform.data_path / 'dsp.db'}"


def create_engine(address: str) -> Engine:
    """Return an engine; SQLite gets WAL, a busy timeout, foreign keys and explicit transactions.

    Raises:
        ConfigError: the address is none, or the database's driver is not installed.
    """
    try:
        parsed = make_url(address)
        if parsed.get_backend_name() != "sqlite":
            return sqlalchemy_engine(parsed, pool_pre_ping=True)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as fault:
        raise ConfigError([Fault("platform.database_url", str(fault))]) from fault
    if parsed.database and parsed.database != ":memory:":
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sqlalchemy_engine(
        parsed, connect_args={"timeout": BUSY_TIMEOUT_SECONDS}, pool_timeout=BUSY_TIMEOUT_SECONDS
    )
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def session_factory(engine: Engine, *, read_only: bool = False) -> sessionmaker[Session]:
    """Return a maker of sessions.

    On SQLite a session takes the write lock when it begins: a transaction that read first and wrote later would
    fail at once if somebody wrote in between, however long the busy timeout. `read_only` sessions take no lock.
    """
    begin = "DEFERRED" if read_only else "IMMEDIATE"
    return sessionmaker(engine.execution_options(**{_BEGIN: begin}), expire_on_commit=False)


def _on_connect(connection: sqlite3.Connection, _record: Any) -> None:
    # The driver must not begin transactions by itself: _on_begin does.
    connection.isolation_level = None
    use_wal(connection)
    for pragma in ("synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _on_begin(connection: Connection) -> None:
    mode = connection.get_execution_options().get(_BEGIN, "IMMEDIATE")
    connection.exec_driver_sql(f"BEGIN {mode}")
