"""SQLite files that processes share: WAL, one thread a connection, whole transactions. No table is defined here."""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from dsp.kernel.errors import UnavailableError

_T = TypeVar("_T")

#: How long a transaction waits for another process's to end before it fails.
BUSY_SECONDS = 10.0


def connect(path: Path, schema: str, synchronous: str = "FULL") -> sqlite3.Connection:
    """Open a file in WAL mode, creating it and running the (repeatable) schema script; any thread may use it.

    `synchronous` FULL survives a power cut, NORMAL a killed process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        use_wal(connection)
        connection.execute(f"PRAGMA synchronous={'NORMAL' if synchronous == 'NORMAL' else 'FULL'}")
        connection.executescript(f"BEGIN IMMEDIATE;\n{schema}\nCOMMIT;")
    except BaseException:
        connection.close()
        raise
    return connection


def use_wal(connection: sqlite3.Connection) -> None:
    """Put a connection's file in WAL mode.

    Switching to WAL needs the file alone and ignores the busy time-out, so two first openers must take turns.
    """
    give_up = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.01)


class SqliteFile:
    """One connection with a thread of its own; calls run one after the other, in the order they were made.

    Every method raises UnavailableError where SQLite fails; the transaction is then rolled back.
    A caller that is cancelled does not stop what it has started.
    """

    def __init__(self, path: Path, schema: str, synchronous: str = "FULL") -> None:
        self.path = path
        self._schema = schema
        self._synchronous = synchronous
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Open the file, creating what is missing; harmless when it is open."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"sqlite-{self.path.stem}")
        try:
            await self._call(self._open)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Finish what was started, and release the file and the thread."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self._close)
            thread.shutdown()

    async def read(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run `work` on one consistent view of the file."""
        return await self._call(lambda: self._transact("BEGIN", work))

    async def write(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run `work` as the only writer; all it did is durable when this returns, or none of it has happened."""
        return await self._call(lambda: self._transact("BEGIN IMMEDIATE", work))

    def _open(self) -> None:
        if self._connection is None:
            self._connection = connect(self.path, self._schema, self._synchronous)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _transact(self, begin: str, work: Callable[[sqlite3.Connection], _T]) -> _T:
        connection = self._connection
        if connection is None:
            raise UnavailableError(f"{self.path.name} is not open")
        connection.execute(begin)
        try:
            result = work(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return result

    async def _call(self, work: Callable[[], _T]) -> _T:
        if self._thread is None:
            raise UnavailableError(f"{self.path.name} is not open")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (sqlite3.Error, OSError) as fault:
            raise UnavailableError(f"{self.path.name}: {fault}") from fault
