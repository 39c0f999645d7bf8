"""The embedded user store: records in this process's memory, saved to SQLite about every second and on close.

One process owns the file. A kill loses what was not saved yet; `absorb` counts it again from the event log.

Bounds hold the memory, and at each the oldest are forgotten: what no cap's window reaches any more, which changes
nothing, then the impressions of one user, those of all, and the users least recently heard of, which loosens long caps
and is counted. A user's responses live as long as the record: until nothing in it is young enough for a cap. A user
takes some 300 bytes and each of his impressions 28 (docs/performance.md).
"""

import asyncio
import sqlite3
from bisect import insort
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from dsp.cache.port import Replay
from dsp.cache.user_codec import decode, encode
from dsp.catalog.exposures import ROW_BYTES, after, counted, latest_ms
from dsp.catalog.user import Exposure, Response, UserRecord
from dsp.events.schema import Notice
from dsp.frequency.evidence import exposure_of, response_of
from dsp.kernel import logging, metrics
from dsp.kernel.clock import MS_PER_DAY, MS_PER_SECOND
from dsp.kernel.errors import UnavailableError
from dsp.kernel.lifecycle import cancel
from dsp.kernel.sqlite import SqliteFile

_SCHEMA = """
CREATE TABLE IF NOT EXISTS users (user_key TEXT PRIMARY KEY, used INTEGER NOT NULL, record BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS users_used ON users (used);
CREATE TABLE IF NOT EXISTS positions (partition INTEGER PRIMARY KEY, next_offset INTEGER NOT NULL);
"""

#: Exposures are features as well, and a cap that is added later finds at least these.
KEPT_MS_MIN = MS_PER_DAY
#: Responses remembered of one user; older ones would tell a model little.
RESPONSES_MAX = 16
_NEVER_MS = -(2**62)
_NOBODY = UserRecord()


class LocalUserStore:
    """Implements dsp.cache.port.UserStore. No call waits for the disk; a failed save is tried again with the next.

    Args:
        exposures_max: of all users together, a response counting as one; beyond it the users least recently heard of
            are forgotten.
        user_exposures_max: of one user; beyond it the oldest are forgotten.
        users_max: beyond it those least recently heard of are forgotten, too.
        window_ms: tells the longest window of any cap; None while that is not known, and then nothing is too old.
    """

    def __init__(
        self,
        path: Path,
        exposures_max: int = 2_500_000,
        user_exposures_max: int = 1_000,
        window_ms: Callable[[], int | None] = lambda: None,
        save_interval_ms: int = 1_000,
        users_max: int = 250_000,
    ) -> None:
        self._file = SqliteFile(path, _SCHEMA, "NORMAL")
        self._exposures_max = exposures_max
        self._user_exposures_max = user_exposures_max
        self._users_max = users_max
        self._window_ms = window_ms
        self._save_seconds = save_interval_ms / MS_PER_SECOND
        self._held = 0  # exposures and responses
        self._forgotten = {bound: metrics.EXPOSURES_FORGOTTEN.labels(bound) for bound in ("user", "store")}
        self._users: OrderedDict[str, UserRecord] = OrderedDict()
        self._changed: set[str] = set()
        self._dropped: set[str] = set()
        self._used = 0
        self._saving: asyncio.Task[None] | None = None
        #: Of the notices topic: everything before it is contained in the records. Empty: from the beginning.
        self.position: dict[int, int] = {}

    async def open(self) -> None:
        """Load what was saved, and start saving. A file that cannot be read is put aside: the log tells it again."""
        try:
            await self._file.open()
            users, self.position, self._used = await self._file.read(self._load)
        except (UnavailableError, msgspec.DecodeError, ValueError) as fault:
            if not _unreadable(fault):
                raise
            await self._file.close()
            path = self._file.path
            await asyncio.to_thread(_put_aside, path)
            logging.get(__name__).error("users unreadable, put aside and begun anew", file=path.name, fault=str(fault))
            await self._file.open()
            users, self.position, self._used = await self._file.read(self._load)
        self._users = OrderedDict(users)
        self._held = sum(map(_size, self._users.values()))
        metrics.USERS_CACHED_MAX.set(self._users_max)
        metrics.USER_EVENTS_CACHED_MAX.set(self._exposures_max)
        self._saving = asyncio.create_task(self._save_regularly(), name="users-save")

    async def close(self) -> None:
        """Save, and release the file."""
        if self._saving is None:
            return
        await cancel(self._saving)
        self._saving = None
        try:
            await self.save()
        finally:
            await self._file.close()

    def get(self, user_key: str) -> UserRecord | None:
        """Return the record, or None for an unknown user."""
        return self._users.get(user_key)

    def expose(self, user_key: str, exposure: Exposure) -> None:
        """Count one impression, once per bid id and at the earliest time given for it."""
        record = self._users.get(user_key, _NOBODY)
        rows = counted(record.exposures, exposure)
        if rows is not record.exposures:
            kept = msgspec.structs.replace(record, exposures=self._kept(rows))
            self._replace(user_key, record, kept, latest_ms(rows))

    def respond(self, user_key: str, response: Response) -> None:
        """Remember a click or conversion, once per bid id and each at the earliest time given for it."""
        record = self._users.get(user_key, _NOBODY)
        known = next((one for one in record.responses if one.bid_id == response.bid_id), None)
        told = response if known is None else known.merged(response)
        if told == known:
            return
        responses = [one for one in record.responses if one is not known]
        insort(responses, told, key=lambda one: one.at_ms)  # it may be late
        kept = msgspec.structs.replace(record, responses=tuple(responses[-RESPONSES_MAX:]))
        self._replace(user_key, record, kept, responses[-1].at_ms)

    async def begin_replay(self) -> Replay:
        """Return from where on the log is to be read: by this process, whose records are its own."""
        return Replay(self.position, True)

    async def end_replay(self, position: Mapping[int, int]) -> None:
        """Do nothing: the position is saved with the records."""

    def absorb(self, notices: Iterable[Notice], position: Mapping[int, int]) -> None:
        """Count what notices read from the log up to `position` tell.

        Counting again is harmless. Reading from `self.position` to the end at a start, and now and then, bounds
        what a kill costs to the time a restart takes to read it.
        """
        for notice in notices:
            if (found := exposure_of(notice)) is not None:
                self.expose(*found)
            if (told := response_of(notice)) is not None:
                self.respond(*told)
        self.position = dict(position)

    async def save(self) -> None:
        """Write what has changed since the last save; raises UnavailableError, and then the next save writes it."""
        changed, self._changed = self._changed, set()
        dropped, self._dropped = self._dropped, set()
        self._used += 1
        rows = [(key, self._used, encode(self._users[key])) for key in changed if key in self._users]
        position = list(self.position.items())
        try:
            await self._file.write(lambda sql: _save(sql, rows, [(key,) for key in dropped], position))
        except BaseException:
            self._changed |= changed
            self._dropped |= dropped
            raise

    def _replace(self, user_key: str, record: UserRecord, kept: UserRecord, now_ms: int) -> None:
        """Keep a user's new record in place of the old one."""
        self._users[user_key] = kept
        self._held += _size(kept) - _size(record)
        self._users.move_to_end(user_key)
        self._changed.add(user_key)
        self._make_room(now_ms)

    def _kept(self, rows: bytes) -> bytes:
        """Return those that a cap can reach and that the bound has room for."""
        kept = after(rows, self._since_ms(latest_ms(rows)))
        beyond = len(kept) // ROW_BYTES - self._user_exposures_max
        if beyond > 0:
            self._forgotten["user"].inc(beyond)
            kept = kept[beyond * ROW_BYTES :]
        return kept

    def _since_ms(self, now_ms: int) -> int:
        """Return up to when impressions are too old for every cap. A day is kept in any case, for caps to come."""
        window_ms = self._window_ms()
        return now_ms - max(window_ms, KEPT_MS_MIN) if window_ms is not None else _NEVER_MS

    def _make_room(self, now_ms: int) -> None:
        since_ms = self._since_ms(now_ms)
        while self._users:
            oldest, record = next(iter(self._users.items()))
            fresh = _latest_ms(record) > since_ms
            if fresh and self._held <= self._exposures_max and len(self._users) <= self._users_max:
                return
            if fresh:
                self._forgotten["store"].inc(len(record.exposures) // ROW_BYTES)
            del self._users[oldest]
            self._held -= _size(record)
            self._changed.discard(oldest)
            self._dropped.add(oldest)

    def _load(self, sql: sqlite3.Connection) -> tuple[list[tuple[str, UserRecord]], dict[int, int], int]:
        """Return the users most recently exposed that have room, the latest last, the position, the last save."""
        users: list[tuple[str, UserRecord]] = []
        left = self._exposures_max
        for user_key, encoded in sql.execute("SELECT user_key, record FROM users ORDER BY used DESC"):
            record = decode(encoded)
            left -= _size(record)
            if left < 0 or len(users) >= self._users_max:
                break
            users.append((user_key, record))
        (used,) = sql.execute("SELECT coalesce(max(used), 0) FROM users").fetchone()
        if not all(record.complete for _, record in users):
            return [], {}, used  # a later release has written it, and the log tells it all again
        return users[::-1], dict(sql.execute("SELECT * FROM positions").fetchall()), used

    async def _save_regularly(self) -> None:
        while True:
            metrics.USERS_CACHED.set(len(self._users))
            metrics.USER_EVENTS_CACHED.set(self._held)
            await asyncio.sleep(self._save_seconds)
            if self._changed or self._dropped:
                try:
                    await self.save()
                except UnavailableError as fault:
                    logging.get(__name__).warning("users not saved, to be tried again", fault=str(fault))


def _unreadable(fault: Exception) -> bool:
    """Return whether no other try can read it: what is in the file is wrong, and not the disk or who else uses it."""
    cause = fault.__cause__
    code = getattr(cause, "sqlite_errorcode", None)
    return not isinstance(fault, UnavailableError) or code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)


def _put_aside(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).replace(path.with_name(f"{path.name}.unreadable{suffix}"))


def _size(record: UserRecord) -> int:
    return len(record.exposures) // ROW_BYTES + len(record.responses)


def _latest_ms(record: UserRecord) -> int:
    ends = [latest_ms(record.exposures)] if record.exposures else []
    return max([*ends, *(one.at_ms for one in record.responses[-1:])])


def _save(
    sql: sqlite3.Connection,
    rows: list[tuple[str, int, bytes]],
    dropped: list[tuple[str]],
    position: list[tuple[int, int]],
) -> None:
    sql.executemany("DELETE FROM users WHERE user_key = ?", dropped)  # first: one may have been heard of again since
    sql.executemany("INSERT OR REPLACE INTO users VALUES (?, ?, ?)", rows)
    sql.executemany("INSERT OR REPLACE INTO positions VALUES (?, ?)", position)
