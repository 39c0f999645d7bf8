"""The simulation's stand-ins for what is slow or not deterministic: clocks, the event log, SQLite without threads."""

import sqlite3
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Engine, StaticPool
from sqlalchemy import create_engine as sqlalchemy_engine

from dsp.cache.local import LocalLeaseStore
from dsp.kernel.clock import NS_PER_MS
from dsp.kernel.errors import UnavailableError
from dsp.kernel.money import Micros
from dsp.kernel.sqlite import SqliteFile
from dsp.store.book_tables import BookTransactionRow
from dsp.stream.port import Assignment, Batch, Entry, Position, Record
from dsp.stream.stamp import Stamp

_T = TypeVar("_T")


def finish(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine that never waits, and return what it returns."""
    try:
        work.send(None)
    except StopIteration as done:
        result: _T = done.value
        return result
    work.close()
    raise RuntimeError("it waits for something")


class World:
    """True time, in milliseconds; only the simulation knows it."""

    def __init__(self, at_ms: int) -> None:
        self.at_ms = at_ms


class SkewedClock:
    """One process's clock (dsp.kernel.clock.Clock): wall time is off, and monotonic readings start anywhere."""

    def __init__(self, world: World, skew_ms: int = 0, started_ms: int = 0) -> None:
        self._world = world
        self._started_ms = started_ms
        self.skew_ms = skew_ms

    def now_ms(self) -> int:
        """Return what this process takes for the wall time."""
        return self._world.at_ms + self.skew_ms

    def elapsed_ns(self) -> int:
        """Return a monotonic reading."""
        return (self._world.at_ms - self._started_ms) * NS_PER_MS

    @property
    def elapsed_ms(self) -> int:
        """Return the monotonic reading in milliseconds."""
        return self._world.at_ms - self._started_ms


class InlineFile(SqliteFile):
    """A SQLite file, or memory, that is used by the calling thread; who calls it while it is `away` is told so."""

    away = False

    async def open(self) -> None:
        """Open it; harmless when it is open."""
        self._open()

    async def close(self) -> None:
        """Release it."""
        self._close()

    async def _call(self, work: Callable[[], _T]) -> _T:
        if self.away:
            raise UnavailableError("away")
        try:
            return work()
        except (sqlite3.Error, OSError) as fault:
            raise UnavailableError(str(fault)) from fault

    @property
    def sql(self) -> sqlite3.Connection:
        """Return the connection, for looking at what is true."""
        if self._connection is None:
            raise UnavailableError("not open")
        return self._connection


class Grantor(LocalLeaseStore):
    """The real lease store in memory, whose file can be away, or which takes the ledger with it."""

    _file: InlineFile

    def __init__(self) -> None:
        super().__init__(Path(":memory:"), "NORMAL", InlineFile)
        self.dies_at_settle = False
        self._opened = False

    @property
    def file(self) -> InlineFile:
        """Return the file, to look into it or to take it away."""
        return self._file

    async def open(self) -> None:
        """Open it the first time; a ledger that comes back while it is away needs nothing of it yet."""
        if not self._opened:
            await super().open()
            self._opened = True

    async def settle(
        self, settled: Mapping[str, Micros], watermark_ms: int, campaigns: Mapping[int, int] | None = None
    ) -> None:
        """See LocalLeaseStore."""
        if self.dies_at_settle:
            raise UnavailableError("the ledger was killed")
        await super().settle(settled, watermark_ms, campaigns)


class Log:
    """The event log of one topic: a list, stamped as the real one is. `stamp` is the reader's view of time."""

    def __init__(self, stamp: Stamp) -> None:
        self.records: list[Record] = []
        self.floor_ms = 0
        self._stamp = stamp

    def write(self, stamp: Stamp, key: str, value: bytes) -> Record:
        """Append one record by the clock of the process that appends."""
        self.floor_ms = stamp.next_ms(self.floor_ms)
        record = Record(0, len(self.records), self.floor_ms, key, value)
        self.records.append(record)
        return record

    async def open(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""

    async def append(self, topic: str, entries: Sequence[Entry]) -> int:
        """Append by the reader's clock."""
        for entry in entries:
            self.write(self._stamp, entry.key, entry.value)
        return self.floor_ms

    async def read(
        self,
        topic: str,
        position: Position,
        limit: int,
        wait_ms: int = 0,
        partitions: Collection[int] | None = None,
        fresh: bool = False,
    ) -> Batch:
        """Read as dsp.stream.local does: at the end the floor is raised to the clock, and is the watermark."""
        after = position.get(0, 0)
        records = self.records[after : after + limit]
        end = after + len(records) == len(self.records)
        if end:
            self.floor_ms = self._stamp.next_ms(self.floor_ms)
        watermark_ms = self.floor_ms if end else records[-1].appended_ms
        return Batch(records, {0: after + len(records)}, end, {0: watermark_ms})

    async def assignment(self, topic: str, group: str) -> Assignment:
        """Return the one partition: there is one ledger at a time."""
        return Assignment(frozenset({0}), 1)

    async def identity(self, topic: str) -> str:
        """Return the same for ever."""
        return "simulated"

    async def committed(self, topic: str, group: str) -> Position:
        """Return nothing: the ledger keeps its position in the book."""
        return {}

    async def commit(self, topic: str, group: str, position: Position) -> None:
        """Do nothing."""

    async def lag(self, topic: str, position: Position) -> int:
        """Return how many records are still to be read."""
        return len(self.records) - position.get(0, 0)

    async def tail(self, topic: str, count: int) -> Position:
        """Return the position before the newest records."""
        return {0: max(0, len(self.records) - count)}

    async def trim(self, topic: str, before_ms: int, position: Position | None = None) -> int:
        """Keep everything: the end of the simulation compares all of it."""
        return 0


def book_engine() -> Engine:
    """Return an empty book in memory, on one connection."""
    engine = sqlalchemy_engine("sqlite://", poolclass=StaticPool)
    with engine.begin() as connection:
        BookTransactionRow.metadata.create_all(connection)
    return engine
