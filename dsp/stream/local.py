"""The embedded event log: one SQLite file in WAL mode per topic, shared by the processes of one machine.

Each topic is one partition; of a group it belongs to the process that holds a lock on a file. Records are numbered
and stamped inside the write transaction, of which SQLite allows one at a time, so offsets have no holes that fill up
later and equal the order of commits.

Watermark: the file keeps a floor. A record is stamped max(clock, floor), which becomes the floor; a reader at the end
of a quiet topic raises the floor to its clock. Whatever is appended after a reader's view carries at least the floor
of that view, whichever process appends it and whatever its clock says; so the floor is the watermark. When the clock
is set back, stamps go on from the floor at the pace of the monotonic clock (dsp.stream.stamp).
"""

import asyncio
import os
import sqlite3
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from dsp.kernel import logging, metrics
from dsp.kernel.clock import MS_PER_SECOND, Clock
from dsp.kernel.errors import UnavailableError
from dsp.kernel.locks import lock
from dsp.kernel.sqlite import SqliteFile
from dsp.stream.port import Assignment, Batch, Entry, Position, Record
from dsp.stream.stamp import Stamp

PARTITION = 0
#: How often a waiting reader looks for what other processes appended, and how stale a quiet topic's floor may get.
POLL_MS = 20
FLOOR_AGE_MS = 100
#: Entries waiting for the disk before appending is refused.
PENDING_MAX = 100_000
_TRIM_ROWS = 2_000
#: No offset is as large.
_END = 1 << 62

_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    offset INTEGER PRIMARY KEY, appended_ms INTEGER NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS head (one INTEGER PRIMARY KEY CHECK (one = 1), next_offset INTEGER, floor_ms INTEGER);
CREATE TABLE IF NOT EXISTS positions (consumer TEXT PRIMARY KEY, next_offset INTEGER NOT NULL);
"""
#: From the clock, so that a file in the place of one that was lost begins after all positions in that one: who reads on
#: from one of them misses nothing of the new file.
_BEGIN = "INSERT OR IGNORE INTO head VALUES (1, {}, 0);"
_OFFSETS_PER_MS = 1_000


class LocalEventLog:
    """Implements dsp.stream.port.EventLog on files in one directory.

    Appends that wait while the disk is busy are committed together. With `synchronous` FULL an acknowledged record
    survives a power cut, with NORMAL the death of any process.
    """

    def __init__(self, directory: Path, clock: Clock, synchronous: str = "FULL") -> None:
        self._directory = directory
        self._clock = clock
        self._synchronous = synchronous
        self._topics: dict[str, _Topic] = {}
        self._shares: dict[tuple[str, str], int] = {}  # files whose locks make a partition ours
        self._opening = asyncio.Lock()
        self._is_open = False

    async def open(self) -> None:
        """Create the directory; topics are opened when they are first used."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            raise UnavailableError(f"event log: {fault}") from fault
        self._is_open = True

    async def close(self) -> None:
        """Write what is waiting, and release the files."""
        self._is_open = False
        while self._shares:
            os.close(self._shares.popitem()[1])
        topics, self._topics = self._topics, {}
        for topic in topics.values():
            await topic.close()

    async def identity(self, topic: str) -> str:
        """Return the same for every file: each begins after all positions in those before it."""
        return "local"

    async def append(self, topic: str, entries: Sequence[Entry]) -> int:
        """Append all entries or none; they are durable when this returns. Return their `appended_ms`."""
        return await (await self._topic(topic)).append(entries)

    async def read(
        self,
        topic: str,
        position: Position,
        limit: int,
        wait_ms: int = 0,
        partitions: Collection[int] | None = None,
        fresh: bool = False,
    ) -> Batch:
        """Read up to `limit` records after `position`, waiting up to `wait_ms` for the first."""
        if partitions is not None and PARTITION not in partitions:
            await asyncio.sleep(wait_ms / MS_PER_SECOND)
            return Batch([], {}, True, {})
        return await (await self._topic(topic)).read(position.get(PARTITION, 0), limit, wait_ms, fresh)

    async def assignment(self, topic: str, group: str) -> Assignment:
        """Return the partition as this process's while it holds the group's lock on it; the first that asks gets it."""
        await self._topic(topic)
        if (topic, group) not in self._shares:
            try:
                descriptor = lock(self._directory / f"{topic}.{group}.lock")
            except OSError as fault:
                raise UnavailableError(f"event log: {fault}") from fault
            if descriptor is None:
                return Assignment(frozenset(), 1)
            self._shares[topic, group] = descriptor
        return Assignment(frozenset({PARTITION}), 1)

    async def committed(self, topic: str, group: str) -> Position:
        """Return a group's committed position; empty when it has none."""
        file = (await self._topic(topic)).reader
        row = await file.read(
            lambda sql: sql.execute("SELECT next_offset FROM positions WHERE consumer = ?", (group,)).fetchone()
        )
        return {} if row is None else {PARTITION: row[0]}

    async def commit(self, topic: str, group: str, position: Position) -> None:
        """Store a group's position."""
        if PARTITION not in position:
            return
        file = (await self._topic(topic)).writer
        row = (group, position[PARTITION])
        await file.write(lambda sql: sql.execute("INSERT OR REPLACE INTO positions VALUES (?, ?)", row))

    async def lag(self, topic: str, position: Position) -> int:
        """Return how many records lie after `position`."""
        after = position.get(PARTITION, 0)
        # The end comes from `head`, so that only the oldest record need be looked up, not the records counted.
        oldest, end = await (await self._topic(topic)).reader.read(_bounds)
        return max(0, end - max(after, oldest))

    async def tail(self, topic: str, count: int) -> Position:
        """Return the position after which the newest `count` records lie, or all there are."""
        oldest, end = await (await self._topic(topic)).reader.read(_bounds)
        return {PARTITION: max(oldest, end - count)}

    async def trim(self, topic: str, before_ms: int, position: Position | None = None) -> int:
        """Drop records both appended before `before_ms` and before `position`, if given; return how many."""
        file = (await self._topic(topic)).writer
        before_offset = _END if position is None else position.get(PARTITION, 0)
        dropped = 0
        while True:  # in small transactions, so that appends find their turn between them
            count = await file.write(lambda sql: _trim(sql, before_offset, before_ms))
            dropped += count
            if count < _TRIM_ROWS:
                return dropped

    async def _topic(self, name: str) -> "_Topic":
        if not self._is_open:
            raise UnavailableError("the event log is not open")
        found = self._topics.get(name)
        if found is not None:
            return found
        if not name.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"not a topic's name: {name!r}")
        async with self._opening:
            if name not in self._topics:
                topic = _Topic(self._directory / f"{name}.db", self._clock, self._synchronous)
                await topic.open()
                self._topics[name] = topic
            return self._topics[name]


class _Waiting(NamedTuple):
    entries: Sequence[Entry]
    done: "asyncio.Future[int]"


class _Topic:
    """One topic's file: a connection that writes, one that reads, and the appends that wait for the disk."""

    def __init__(self, path: Path, clock: Clock, synchronous: str) -> None:
        schema = _SCHEMA + _BEGIN.format(max(1, clock.now_ms() * _OFFSETS_PER_MS))
        self.writer = SqliteFile(path, schema, synchronous)
        self.reader = SqliteFile(path, schema, "NORMAL")  # it writes nothing but the floor
        self._stamp = Stamp(clock)
        self._gaps = metrics.LOG_GAPS.labels(path.stem)  # at nought from the start
        self._waiting: list[_Waiting] = []
        self._waiting_count = 0
        self._drain: asyncio.Task[None] | None = None
        self._grown = asyncio.Event()

    async def open(self) -> None:
        await self.writer.open()
        await self.reader.open()

    async def close(self) -> None:
        while self._drain is not None:
            await self._drain
        await self.writer.close()
        await self.reader.close()

    async def append(self, entries: Sequence[Entry]) -> int:
        if self._waiting_count + len(entries) > PENDING_MAX:
            raise UnavailableError("too many records wait for the event log")
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(entries, done))
        self._waiting_count += len(entries)
        if self._drain is None:
            self._drain = asyncio.create_task(self._write_waiting())
        return await done

    async def _write_waiting(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            self._waiting_count = 0
            await self._write(group)
            self._grown.set()
            self._grown = asyncio.Event()
        self._drain = None

    async def _write(self, group: list[_Waiting]) -> None:
        try:
            appended_ms = await self.writer.write(lambda sql: _append(sql, group, self._stamp))
        except Exception as fault:
            if len(group) > 1 and not isinstance(fault, UnavailableError):
                for waiting in group:  # one caller's unusable entry must not fail the others
                    await self._write([waiting])
                return
            for waiting in group:
                if not waiting.done.done():
                    waiting.done.set_exception(fault)
            return
        for waiting in group:
            if not waiting.done.done():
                waiting.done.set_result(appended_ms)

    async def read(self, after: int, limit: int, wait_ms: int, fresh: bool) -> Batch:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_ms / MS_PER_SECOND
        while True:
            grown = self._grown
            batch = await self.reader.read(lambda sql: _select(sql, after, limit))
            stale_ms = self._stamp.next_ms(batch.watermark_ms) - batch.watermark_ms
            if fresh and not batch.records and stale_ms > FLOOR_AGE_MS:
                await self.reader.write(lambda sql: _raise_floor(sql, self._stamp))
                batch = await self.reader.read(lambda sql: _select(sql, after, limit))
            left = deadline - loop.time()
            if batch.records or left <= 0:
                first = batch.records[0].offset if batch.records else batch.position[PARTITION]
                if 0 < after < first:
                    self._gaps.inc()
                    logging.get(__name__).error("records are gone unread", position=after, oldest=first)
                return batch
            try:
                await asyncio.wait_for(grown.wait(), min(left, POLL_MS / MS_PER_SECOND))
            except TimeoutError:
                continue


def _append(sql: sqlite3.Connection, group: list[_Waiting], stamp: Stamp) -> int:
    head: tuple[int, int] = sql.execute("SELECT next_offset, floor_ms FROM head").fetchone()
    offset, floor_ms = head
    appended_ms = stamp.next_ms(floor_ms)
    entries = [entry for waiting in group for entry in waiting.entries]
    rows = [(offset + index, appended_ms, key, value) for index, (key, value) in enumerate(entries)]
    sql.executemany("INSERT INTO records VALUES (?, ?, ?, ?)", rows)
    sql.execute("UPDATE head SET next_offset = ?, floor_ms = ?", (offset + len(rows), appended_ms))
    return appended_ms


def _raise_floor(sql: sqlite3.Connection, stamp: Stamp) -> None:
    (floor_ms,) = sql.execute("SELECT floor_ms FROM head").fetchone()
    sql.execute("UPDATE head SET floor_ms = ?", (stamp.next_ms(floor_ms),))


def _select(sql: sqlite3.Connection, after: int, limit: int) -> Batch:
    end, floor_ms = sql.execute("SELECT next_offset, floor_ms FROM head").fetchone()
    if after > end:
        raise UnavailableError(f"position {after} is beyond the end of the log ({end}): it is not the log it was")
    rows = sql.execute(
        "SELECT offset, appended_ms, key, value FROM records WHERE offset >= ? ORDER BY offset LIMIT ?", (after, limit)
    ).fetchall()
    records = [Record(PARTITION, *row) for row in rows]
    position = records[-1].offset + 1 if records else end
    at_end = position == end
    watermark_ms = floor_ms if at_end else records[-1].appended_ms
    return Batch(records, {PARTITION: position}, at_end, {PARTITION: watermark_ms})


def _bounds(sql: sqlite3.Connection) -> tuple[int, int]:
    (end,) = sql.execute("SELECT next_offset FROM head").fetchone()
    (oldest,) = sql.execute("SELECT min(offset) FROM records").fetchone()
    return (end if oldest is None else oldest), end


def _trim(sql: sqlite3.Connection, before_offset: int, before_ms: int) -> int:
    # Stamps never decrease, so what may go is a prefix.
    cursor = sql.execute(
        "DELETE FROM records WHERE appended_ms < ? AND offset IN"
        " (SELECT offset FROM records WHERE offset < ? ORDER BY offset LIMIT ?)",
        (before_ms, before_offset, _TRIM_ROWS),
    )
    return int(cursor.rowcount)
