"""Engines and sessions: SQLite, set up so that several processes can share one file, and PostgreSQL."""

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, event, make_url
from sqlalchemy import create_engine as sqlalchemy_engine
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.orm import Session, sessionmaker

from dsp.kernel.clock import MS_PER_SECOND
from dsp.kernel.config import Platform
from dsp.kernel.errors import ConfigError, Fault
from dsp.kernel.sqlite import use_wal
from dsp.store import faults

#: How long a transaction waits for another's lock, and a caller for a connection of the pool, before it fails.
BUSY_TIMEOUT_SECONDS = 5.0
#: Connections that a process holds, and how many more it may open at a time. PostgreSQL's max_connections must have
#: room for all processes'.
POOL_CONNECTIONS = 5
POOL_OVERFLOW = 10
#: A statement of ours takes milliseconds; only the audit of a large book takes seconds.
_STATEMENT_SECONDS = 30.0
#: A process that is paused within a transaction would otherwise keep its locks from all others for as long.
_IDLE_SECONDS = 30.0
#: libpq's settings (PostgreSQL, 34.1.2). A server that is gone without a word is noticed in about 20 seconds.
_POSTGRESQL = {
    "application_name": "dsp",
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "2",
    "tcp_user_timeout": "20000",
    "options": (
        f"-c lock_timeout={BUSY_TIMEOUT_SECONDS * MS_PER_SECOND:.0f}"
        f" -c statement_timeout={_STATEMENT_SECONDS * MS_PER_SECOND:.0f}"
        f" -c idle_in_transaction_session_timeout={_IDLE_SECONDS * MS_PER_SECOND:.0f}"
        # And the server notices as soon that a client is gone, which may hold locks (dsp.store.leader).
        " -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=2"
    ),
}
_BEGIN = "dsp_sqlite_begin"


def url(platform: Platform) -> str:
    """Return the database's URL: the configured one, or SQLite inside the data directory."""
    return platform.database_url or f"sqlite:///{platform.data_path / 'dsp.db'}"


def create_engine(address: str) -> Engine:
    """Return an engine for an SQLite file or a PostgreSQL database.

    SQLite gets WAL, a busy timeout, foreign keys and explicit transactions; PostgreSQL time-outs for everything, which
    parameters of the URL override. Sessions raise dsp.kernel.errors.UnavailableError where trying again may help.

    Raises:
        ConfigError: the address is none, or the database's driver is not installed.
    """
    try:
        parsed = make_url(address)
    except (ArgumentError, ValueError) as fault:  # neither is repeated: what they say may be part of a password
        raise _refused("is no database URL, such as postgresql://USER:PASSWORD@HOST/DATABASE") from fault
    backend = parsed.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise _refused(f"must be of SQLite or PostgreSQL, not of {backend}")
    try:
        engine = _sqlite(parsed) if backend == "sqlite" else _postgresql(parsed)
    except (NoSuchModuleError, ModuleNotFoundError) as fault:
        raise _refused(f"{fault}: install the extra `production`") from fault
    faults.translate(engine)
    return engine


def session_factory(engine: Engine, *, read_only: bool = False) -> sessionmaker[Session]:
    """Return a maker of sessions; a `read_only` one sees the database as at its first statement, and locks nothing.

    On SQLite a session that writes takes the write lock when it begins: a transaction that read first and wrote later
    would fail at once if somebody wrote in between, however long the busy timeout. On PostgreSQL its statements see
    what others have committed meanwhile, and what must not change is locked by whoever reads it.
    """
    if engine.dialect.name == "sqlite":
        options: dict[str, Any] = {_BEGIN: "DEFERRED" if read_only else "IMMEDIATE"}
    elif read_only:
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    else:
        options = {"isolation_level": "READ COMMITTED"}
    return sessionmaker(engine.execution_options(**options), expire_on_commit=False)


def _refused(message: str) -> ConfigError:
    return ConfigError([Fault("platform.database_url", message)])


def _sqlite(parsed: URL) -> Engine:
    if parsed.database and parsed.database != ":memory:":
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sqlalchemy_engine(
        parsed, connect_args={"timeout": BUSY_TIMEOUT_SECONDS}, pool_timeout=BUSY_TIMEOUT_SECONDS
    )
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def _postgresql(parsed: URL) -> Engine:
    return sqlalchemy_engine(
        parsed,
        connect_args={name: value for name, value in _POSTGRESQL.items() if name not in parsed.query},
        pool_size=POOL_CONNECTIONS,
        max_overflow=POOL_OVERFLOW,
        pool_timeout=BUSY_TIMEOUT_SECONDS,
        # After a restart of the server every pooled connection is dead; nobody is to notice.
        pool_pre_ping=True,
    )


def _on_connect(connection: sqlite3.Connection, _record: Any) -> None:
    # The driver must not begin transactions by itself: _on_begin does.
    connection.isolation_level = None
    use_wal(connection)
    for pragma in ("synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _on_begin(connection: Connection) -> None:
    mode = connection.get_execution_options().get(_BEGIN, "IMMEDIATE")
    connection.exec_driver_sql(f"BEGIN {mode}")
