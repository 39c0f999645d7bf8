"""The embedded user store: records in this process's memory, saved to SQLite about every second and on close.

One process owns the file. A kill loses what was not saved yet; `absorb` counts it again from the event log.
"""

import asyncio
import sqlite3
from bisect import insort
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from dsp.catalog.user import Exposure, UserRecord
from dsp.events.schema import Notice, NoticeKind
from dsp.kernel import logging
from dsp.kernel.clock import MS_PER_SECOND
from dsp.kernel.errors import UnavailableError
from dsp.kernel.sqlite import SqliteFile

_SCHEMA = """
CREATE TABLE IF NOT EXISTS users (user_key TEXT PRIMARY KEY, used INTEGER NOT NULL, record BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS users_used ON users (used);
CREATE TABLE IF NOT EXISTS positions (partition INTEGER PRIMARY KEY, next_offset INTEGER NOT NULL);
"""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(UserRecord)


def exposure_of(notice: Notice) -> tuple[str, Exposure] | None:
    """Return the user and the exposure that a notice proves: an impression was billed or seen."""
    facts = notice.facts
    if not facts.user_key or not (notice.kind is NoticeKind.IMPRESSION or notice.cost_micros > 0):
        return None
    return facts.user_key, Exposure(
        facts.bid_id, notice.at_ms, facts.advertiser_id, facts.campaign_id, facts.line_item_id
    )


class LocalUserStore:
    """Implements dsp.cache.port.UserStore. Bounded: the users least recently exposed go first, and a user's oldest
    exposures. No call waits for the disk; a failed save is tried again with the next.
    """

    def __init__(
        self,
        path: Path,
        users_max: int = 500_000,
        exposures_max: int = 128,
        save_interval_ms: int = 1_000,
    ) -> None:
        self._file = SqliteFile(path, _SCHEMA, "NORMAL")
        self._users_max = users_max
        self._exposures_max = exposures_max
        self._save_seconds = save_interval_ms / MS_PER_SECOND
        self._users: OrderedDict[str, UserRecord] = OrderedDict()
        self._changed: set[str] = set()
        self._dropped: set[str] = set()
        self._used = 0
        self._saving: asyncio.Task[None] | None = None
        #: Of the notices topic: everything before it is contained in the records. Empty: from the beginning.
        self.position: dict[int, int] = {}

    async def open(self) -> None:
        """Load what was saved, and start saving."""
        await self._file.open()
        rows, self.position, self._used = await self._file.read(lambda sql: _load(sql, self._users_max))
        self._users = OrderedDict((user_key, _decoder.decode(record)) for user_key, record in rows)
        self._saving = asyncio.create_task(self._save_regularly(), name="users-save")

    async def close(self) -> None:
        """Save, and release the file."""
        if self._saving is None:
            return
        self._saving.cancel()
        with suppress(asyncio.CancelledError):
            await self._saving
        self._saving = None
        try:
            await self.save()
        finally:
            await self._file.close()

    async def get(self, user_key: str) -> UserRecord | None:
        """Return the record, or None for an unknown user."""
        return self._users.get(user_key)

    async def expose(self, user_key: str, exposure: Exposure) -> None:
        """Count one impression, once per bid id."""
        self._expose(user_key, exposure)

    def absorb(self, notices: Iterable[Notice], position: dict[int, int]) -> int:
        """Count the exposures of notices read from the log up to `position`; return how many users they concerned.

        Counting again is harmless. Reading from `self.position` to the end at a start, and now and then, bounds
        what a kill costs to the time a restart takes to read it.
        """
        found = [exposed for exposed in map(exposure_of, notices) if exposed is not None]
        for user_key, exposure in found:
            self._expose(user_key, exposure)
        self.position = dict(position)
        return len({user_key for user_key, _ in found})

    async def save(self) -> None:
        """Write what has changed since the last save; raises UnavailableError, and then the next save writes it."""
        changed, self._changed = self._changed, set()
        dropped, self._dropped = self._dropped, set()
        self._used += 1
        rows = [(key, self._used, _encoder.encode(self._users[key])) for key in changed if key in self._users]
        position = list(self.position.items())
        try:
            await self._file.write(lambda sql: _save(sql, rows, [(key,) for key in dropped], position))
        except BaseException:
            self._changed |= changed
            self._dropped |= dropped - self._users.keys()
            raise

    def _expose(self, user_key: str, exposure: Exposure) -> None:
        record = self._users.get(user_key, UserRecord())
        if any(known.bid_id == exposure.bid_id for known in record.exposures):
            return
        exposures = list(record.exposures)
        insort(exposures, exposure, key=lambda one: one.at_ms)  # a replay may bring older ones
        self._users[user_key] = UserRecord(tuple(exposures[-self._exposures_max :]), record.segments)
        self._users.move_to_end(user_key)
        self._changed.add(user_key)
        self._dropped.discard(user_key)
        if len(self._users) > self._users_max:
            oldest, _ = self._users.popitem(last=False)
            self._changed.discard(oldest)
            self._dropped.add(oldest)

    async def _save_regularly(self) -> None:
        while True:
            await asyncio.sleep(self._save_seconds)
            if self._changed or self._dropped:
                try:
                    await self.save()
                except UnavailableError as fault:
                    logging.get(__name__).warning("users not saved, to be tried again", fault=str(fault))


def _load(sql: sqlite3.Connection, users_max: int) -> tuple[list[tuple[str, bytes]], dict[int, int], int]:
    rows = sql.execute("SELECT user_key, record FROM users ORDER BY used DESC LIMIT ?", (users_max,)).fetchall()
    (used,) = sql.execute("SELECT coalesce(max(used), 0) FROM users").fetchone()
    return rows[::-1], dict(sql.execute("SELECT * FROM positions").fetchall()), used


def _save(
    sql: sqlite3.Connection,
    rows: list[tuple[str, int, bytes]],
    dropped: list[tuple[str]],
    position: list[tuple[int, int]],
) -> None:
    sql.executemany("INSERT OR REPLACE INTO users VALUES (?, ?, ?)", rows)
    sql.executemany("DELETE FROM users WHERE user_key = ?", dropped)
    sql.executemany("INSERT OR REPLACE INTO positions VALUES (?, ?)", position)
