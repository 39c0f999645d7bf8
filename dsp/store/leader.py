"""Leadership: of the processes that do the same work, the one that may do it. The database chooses, by a lock that ends
with whoever holds it: an advisory lock of a PostgreSQL session, or the lock of a file beside an SQLite database.
"""

import os
import zlib
from pathlib import Path

from sqlalchemy import Connection, Engine, text

from dsp.kernel.locks import lock

#: The first half of the key of every lock of ours; the second half is the name's.
_SPACE = 0x647370
_TAKE = text("SELECT pg_try_advisory_lock(:space, :name)")
_LOOK = text("SELECT 1")


class Leadership:
    """One process's claim to do the work of a name.

    A leader that is paused stays leader, so that two never work at once; it must be killed. One that has lost its
    connection is not leader any more, which it notices when it next asks.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._name = name
        self._connection: Connection | None = None
        self._file: int | None = None

    def held(self) -> bool:
        """Return whether this process leads, trying to become the leader if it does not.

        Raises:
            UnavailableError: the database is away; nobody knows who leads, so this process does not.
        """
        if self._engine.dialect.name == "sqlite":
            return self._hold_file()
        return self._hold_session()

    def give_up(self) -> None:
        """Let another process lead."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self._connection is not None:
            self._connection.invalidate()  # the session ends, and its lock with it: back in the pool it would keep it
            self._connection.close()
            self._connection = None

    def _hold_file(self) -> bool:
        if self._file is None:
            self._file = lock(Path(f"{self._engine.url.database}.{self._name}.lock"))
        return self._file is not None

    def _hold_session(self) -> bool:
        try:
            if self._connection is not None:
                self._connection.execute(_LOOK)
                return True
            self._connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            name = zlib.crc32(self._name.encode()) - (1 << 31)  # PostgreSQL's keys are signed
            held: bool = self._connection.execute(_TAKE, {"space": _SPACE, "name": name}).scalar_one()
        except BaseException:
            self.give_up()
            raise
        if not held:
            self.give_up()
        return held
