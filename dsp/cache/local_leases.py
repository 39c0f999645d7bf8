"""The embedded lease store: limits, holders and leases in one SQLite file, about one transaction a second a holder.

`used` holds, for each line item and campaign, by day and in total, the sum of what its leases were granted; a grant is
checked against it and added to it in the same transaction, so the sum of grants never exceeds a limit. Days are
numbers in the advertiser's zone; a line item and its campaign have the same advertiser, so they never mean two things.

A holder that is silent for too long, or replaced, gets no more (its epoch is fenced), but its leases stay in `used`:
bids it has sent may still win. They are closed at what was billed when nothing can be billed on them any more: with
every sync a holder promises an instant after which none of its bids expires, and the watermark tells that the ledger
has passed the last one promised. No clock of a holder's is compared with another's.

Late wins come when their bids' leases may be closed. The ledger has leases of its own for them, one for each line item
and day, which nobody closes: they are granted what is in no other lease, before the book charges it.

Of days long over only what bids may still be charged to is kept, and the totals. On such a day nothing is granted any
more, whatever a clock says, and what the ledger tells of its leases has been counted: no row is taken out before the
ledger has told everything, and a lease of a later day is always known.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from dsp.cache.port import LeaseReport, LeaseState, LeaseWant, Limit
from dsp.kernel.clock import MS_PER_DAY, MS_PER_HOUR
from dsp.kernel.errors import ConfigError, ConflictError, Fault
from dsp.kernel.money import Micros
from dsp.kernel.sqlite import SqliteFile
from dsp.ledger.terms import LATE_EPOCH, LateClaim, closes_ms, lease_id, lease_parts

_LIVE, _FENCED, _CLOSED = 0, 1, 2
_SCOPES = ("line_item", "campaign")
_ALL_DAYS = -1
_UNBOUNDED = 1 << 62
#: While several holders compete, one gets at most half of its share of what is left, but always this much of it.
GRANT_MIN_MICROS = 20_000
#: All holders together may keep one in so many micros of what is left in the store beyond what they need at once. A
#: minute's spend is far less of a day's budget but for the day's end, and what a dead holder has is locked for a while.
SPARE_PART = 4
#: Leases settled in one transaction, and taken out in one.
_SETTLED_MAX = 5_000
_PRUNED_MAX = 1_000
#: The latest days with leases, all of whose leases are kept. They are counted, not reckoned from a clock: one that was
#: wrong for a moment must not close the day that it is.
DAYS_KEPT = 8

_HOLDER_COLUMNS = {"epoch", "holder", "state", "expires_ms", "syncs", "syncs_seen", "seen_ms"}
#: Files of before holders promised when their last bid expires. No exchange bills a bid as late as this after it.
_UNPROMISED_COLUMNS = {"epoch", "holder", "state", "seen_ms"}
_UNPROMISED_MS = MS_PER_DAY
_SCHEMA = """
CREATE TABLE IF NOT EXISTS state (one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER, watermark_ms INTEGER);
CREATE TABLE IF NOT EXISTS holders (
    epoch INTEGER PRIMARY KEY, holder TEXT NOT NULL, state INTEGER NOT NULL, expires_ms INTEGER NOT NULL DEFAULT 0,
    syncs INTEGER NOT NULL DEFAULT 0, syncs_seen INTEGER NOT NULL DEFAULT -1, seen_ms INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS limits (
    line_item_id INTEGER PRIMARY KEY, campaign_id INTEGER NOT NULL, daily INTEGER, total INTEGER,
    campaign_daily INTEGER, campaign_total INTEGER);
CREATE TABLE IF NOT EXISTS paused (line_item_id INTEGER PRIMARY KEY, total INTEGER);
CREATE TABLE IF NOT EXISTS leases (
    lease_id TEXT PRIMARY KEY, epoch INTEGER NOT NULL, line_item_id INTEGER NOT NULL, campaign_id INTEGER NOT NULL,
    day INTEGER NOT NULL, granted INTEGER NOT NULL, settled INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS leases_epoch ON leases (epoch) WHERE granted > settled;
CREATE INDEX IF NOT EXISTS leases_day ON leases (day);
CREATE TABLE IF NOT EXISTS pruned (one INTEGER PRIMARY KEY CHECK (one = 1), before_day INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS used (
    scope TEXT, id INTEGER, day INTEGER, micros INTEGER NOT NULL, PRIMARY KEY (scope, id, day)) WITHOUT ROWID;
INSERT OR IGNORE INTO state VALUES (1, 0, 0);
INSERT OR IGNORE INTO pruned VALUES (1, 0);
"""
#: What is left of the four budgets that a line item draws on, the smallest; NULL for one without limits.
_LEFT = """
SELECT min(
    ifnull(daily - ifnull(sum(micros) FILTER (WHERE scope = 'line_item' AND used.day >= 0), 0), :unbounded),
    ifnull(total - ifnull(sum(micros) FILTER (WHERE scope = 'line_item' AND used.day < 0), 0), :unbounded),
    ifnull(campaign_daily - ifnull(sum(micros) FILTER (WHERE scope = 'campaign' AND used.day >= 0), 0), :unbounded),
    ifnull(campaign_total - ifnull(sum(micros) FILTER (WHERE scope = 'campaign' AND used.day < 0), 0), :unbounded))
FROM limits LEFT JOIN used ON used.day IN (:day, -1) AND (
    scope = 'line_item' AND id = line_item_id OR scope = 'campaign' AND id = campaign_id)
WHERE line_item_id = :line_item_id
"""
#: A holder's open leases with what is left of the budgets of each: one statement, as there may be thousands.
_LEASES = (
    "SELECT lease_id, line_item_id, day, granted, settled, ("  # noqa: S608 - all of it is ours
    + _LEFT.replace(":line_item_id", "leases.line_item_id").replace(":day", "leases.day")
    + ") FROM leases WHERE epoch = :epoch AND granted > settled"
)
#: Stands before what is left, for late wins: the total of what is not active is 0 in the table of limits.
_LATE = """
WITH limits AS (
    SELECT line_item_id, campaign_id, daily, iif(paused.line_item_id IS NULL, given.total, paused.total) AS total,
        campaign_daily, campaign_total
    FROM main.limits AS given LEFT JOIN paused USING (line_item_id))
"""


class LocalLeaseStore:
    """Implements dsp.cache.port.LeaseStore on one file shared by the processes of one machine."""

    def __init__(self, path: Path, synchronous: str = "FULL", file: type[SqliteFile] = SqliteFile) -> None:
        self._file = file(path, _SCHEMA, synchronous)

    async def open(self) -> None:
        """Open the file, creating what is missing and upgrading what is old.

        Raises:
            ConfigError: the file is of a version that this one does not know.
        """
        await self._file.open()
        try:
            await self._file.write(_upgrade)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Release the file."""
        await self._file.close()

    async def register(self, holder: str, now_ms: int) -> int:
        """Return a new epoch for a holder; its older epochs are fenced."""
        return await self._file.write(lambda sql: _register(sql, holder, now_ms))

    async def sync(
        self, epoch: int, now_ms: int, wants: Sequence[LeaseWant], returns: Mapping[str, Micros], expires_ms_max: int
    ) -> LeaseReport:
        """In one transaction: renew the epoch and its promise, take back `returns`, grant what fits of `wants`."""
        return await self._file.write(lambda sql: _sync(sql, epoch, now_ms, wants, returns, expires_ms_max))

    async def set_limits(self, limits: Sequence[Limit]) -> None:
        """Replace the limits of these line items; one lowered below what is granted recalls what is not reserved."""
        await self._file.write(lambda sql: _set_limits(sql, limits))

    async def settle(
        self, settled: Mapping[str, Micros], watermark_ms: int, campaigns: Mapping[int, int] | None = None
    ) -> None:
        """Record cumulative billed amounts by lease id, and with the last of them how far the ledger has read."""
        for some, at_ms in portions(settled, watermark_ms, _SETTLED_MAX):
            await self._file.write(partial(_settle, settled=some, watermark_ms=at_ms, campaigns=campaigns or {}))

    async def behind(self, watermark_ms: int) -> Sequence[str] | None:
        """Return the leases that are not spent or returned; None from a file that is new, or older than the book."""
        return await self._file.read(lambda sql: _behind(sql, watermark_ms))

    async def cover(self, claims: Sequence[LateClaim]) -> dict[str, Micros]:
        """Grant the ledger's own leases what late wins cost, as far as there is room; return what they have in all."""
        return await self._file.write(lambda sql: _cover(sql, claims))

    async def reclaim(self, now_ms: int, holder_timeout_ms: int) -> Micros:
        """Fence silent holders, and return to the budgets what fenced holders' leases no longer can spend."""
        return await self._file.write(lambda sql: _reclaim(sql, now_ms, holder_timeout_ms))


class _Lease(NamedTuple):
    lease_id: str
    epoch: int
    line_item_id: int
    campaign_id: int
    day: int
    granted: Micros
    settled: Micros


def _upgrade(sql: sqlite3.Connection) -> None:
    """Bring a file of an earlier version up to date; no money of its leases comes back before it is safe."""
    columns = {name for _, name, *_ in sql.execute("PRAGMA table_info(holders)")}
    if columns == _HOLDER_COLUMNS:
        return
    if columns != _UNPROMISED_COLUMNS:
        fault = (
            "is of a version that this one cannot read. Stop every process, wait for the longest notice_ttl_seconds or "
            "notice_ttl_seconds_max of the exchanges, run the ledger worker of the version that wrote it until it has "
            "read everything, then move the file away and start the ledger worker first: it tells a new file what "
            "every lease has spent"
        )
        raise ConfigError([Fault("leases.db", fault)])
    for column in (
        "expires_ms INTEGER NOT NULL DEFAULT 0",
        "syncs INTEGER NOT NULL DEFAULT 0",
        "syncs_seen INTEGER NOT NULL DEFAULT -1",
    ):
        sql.execute(f"ALTER TABLE holders ADD COLUMN {column}")
    # Nobody wrote down when these holders' last bids expire. They are fenced, and their leases stay as they are until
    # nothing can come any more.
    sql.execute(
        "UPDATE holders SET state = max(state, ?), expires_ms = max(seen_ms, (SELECT watermark_ms FROM state)) + ?",
        (_FENCED, _UNPROMISED_MS),
    )


def _register(sql: sqlite3.Connection, holder: str, now_ms: int) -> int:
    (last,) = sql.execute("SELECT epoch FROM state").fetchone()
    # From the clock, so that a store that lost its file does not give out the lease ids of old again.
    epoch = max(int(last) + 1, now_ms)
    sql.execute("UPDATE state SET epoch = ?", (epoch,))
    sql.execute("UPDATE holders SET state = ? WHERE holder = ? AND state = ?", (_FENCED, holder, _LIVE))
    sql.execute("INSERT INTO holders (epoch, holder, state, seen_ms) VALUES (?, ?, ?, 0)", (epoch, holder, _LIVE))
    return epoch


def _sync(
    sql: sqlite3.Connection,
    epoch: int,
    now_ms: int,
    wants: Iterable[LeaseWant],
    returns: Mapping[str, Micros],
    expires_ms_max: int,
) -> LeaseReport:
    renewed = sql.execute(
        "UPDATE holders SET syncs = syncs + 1, expires_ms = max(expires_ms, ?) WHERE epoch = ? AND state = ?",
        (expires_ms_max, epoch, _LIVE),
    )
    if renewed.rowcount != 1:
        raise ConflictError(f"epoch {epoch} is revoked")
    for name, amount in returns.items():
        lease = _lease(sql, name)
        if lease is not None and lease.epoch == epoch:
            _add(sql, lease, -max(0, min(amount, lease.granted - lease.settled)))
    (holders,) = sql.execute("SELECT count(*) FROM holders WHERE state = ?", (_LIVE,)).fetchone()
    for want in wants:
        _grant(sql, epoch, now_ms, want, holders)
    rows = sql.execute(_LEASES, {"epoch": epoch, "unbounded": _UNBOUNDED}).fetchall()
    (watermark_ms,) = sql.execute("SELECT watermark_ms FROM state").fetchone()
    part = SPARE_PART * holders
    leases = [
        LeaseState(name, line_item_id, day, granted, settled, left < 0, max(0, left) // part)
        for name, line_item_id, day, granted, settled, left in rows
    ]
    return LeaseReport(leases, watermark_ms)


def _set_limits(sql: sqlite3.Connection, limits: Sequence[Limit]) -> None:
    rows = [one[:6] if one.active else one._replace(total_micros=0)[:6] for one in limits]
    sql.executemany("INSERT OR REPLACE INTO limits VALUES (?, ?, ?, ?, ?, ?)", rows)
    sql.executemany("DELETE FROM paused WHERE line_item_id = ?", [one[:1] for one in limits])
    paused = [(one.line_item_id, one.total_micros) for one in limits if not one.active]
    sql.executemany("INSERT INTO paused VALUES (?, ?)", paused)


def _grant(sql: sqlite3.Connection, epoch: int, now_ms: int, want: LeaseWant, holders: int) -> None:
    row = sql.execute("SELECT campaign_id FROM limits WHERE line_item_id = ?", (want.line_item_id,)).fetchone()
    if row is None or not _is_day(want.day, now_ms) or want.day < _day_min(sql):
        return
    left = _left(sql, want.line_item_id, want.day)
    # Competitors halve their share of the rest at every sync, so no one of them takes the last money to sit on it.
    share = left if holders == 1 else max(left // (2 * holders), min(left, GRANT_MIN_MICROS))
    amount = min(want.amount_micros, share)
    if amount <= 0:
        return
    name = lease_id(epoch, want.line_item_id, want.day)
    lease = _lease(sql, name) or _Lease(name, epoch, want.line_item_id, row[0], want.day, 0, 0)
    _add(sql, lease, amount)


def _is_day(day: int, now_ms: int) -> bool:
    """Return whether it is this day somewhere on Earth: a holder may not draw on another day's budget."""
    return (now_ms - 12 * MS_PER_HOUR) // MS_PER_DAY <= day <= (now_ms + 14 * MS_PER_HOUR) // MS_PER_DAY


def _left(sql: sqlite3.Connection, line_item_id: int, day: int, late: bool = False) -> Micros:
    query = _LATE + _LEFT if late else _LEFT
    (left,) = sql.execute(query, {"line_item_id": line_item_id, "day": day, "unbounded": _UNBOUNDED}).fetchone()
    return int(left)


def _lease(sql: sqlite3.Connection, name: str) -> _Lease | None:
    row = sql.execute("SELECT * FROM leases WHERE lease_id = ?", (name,)).fetchone()
    return None if row is None else _Lease(*row)


def _add(sql: sqlite3.Connection, lease: _Lease, amount: Micros, settled: Micros | None = None) -> None:
    """Move a lease's grant by `amount`, and with it what is used of the four budgets it draws on."""
    row = lease._replace(granted=lease.granted + amount, settled=lease.settled if settled is None else settled)
    sql.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    if amount:
        sql.executemany(
            "INSERT INTO used VALUES (?, ?, ?, ?)"
            " ON CONFLICT (scope, id, day) DO UPDATE SET micros = micros + excluded.micros",
            [
                (scope, owner, day, amount)
                for scope, owner in zip(_SCOPES, (lease.line_item_id, lease.campaign_id), strict=True)
                for day in (lease.day, _ALL_DAYS)
            ],
        )


def _settle(
    sql: sqlite3.Connection, settled: Sequence[tuple[str, Micros]], watermark_ms: int, campaigns: Mapping[int, int]
) -> None:
    day_min = _day_min(sql)
    for name, billed in settled:
        lease = _lease(sql, name) or _forgotten(name, campaigns, day_min)
        if lease is not None and billed > lease.settled:
            # By protocol a lease is never billed beyond its grant. If it is (this file was lost, and the book was
            # not), what was spent counts against the budgets all the same.
            _add(sql, lease, max(0, billed - lease.granted), billed)
    sql.execute("UPDATE state SET watermark_ms = max(watermark_ms, ?)", (watermark_ms,))
    if watermark_ms:  # else more is to be told
        _prune(sql)


def _day_min(sql: sqlite3.Connection) -> int:
    (day,) = sql.execute("SELECT before_day FROM pruned").fetchone()
    return int(day)


def _prune(sql: sqlite3.Connection) -> None:
    """Take out some leases of days long over on which nothing is open, and what was used on those days."""
    day = _UNBOUNDED
    for _ in range(DAYS_KEPT):
        (day,) = sql.execute("SELECT max(day) FROM leases WHERE day < ?", (day,)).fetchone()
        if day is None:
            return
    sql.execute("UPDATE pruned SET before_day = max(before_day, ?)", (day,))
    gone = sql.execute(
        "DELETE FROM leases WHERE lease_id IN ("
        " SELECT lease_id FROM leases WHERE day < ? AND (granted <= settled OR epoch = ?) LIMIT ?)"
        " RETURNING line_item_id, campaign_id, day",
        (day, LATE_EPOCH, _PRUNED_MAX),
    ).fetchall()
    used = [(scope, owner, day) for *owners, day in gone for scope, owner in zip(_SCOPES, owners, strict=True)]
    sql.executemany("DELETE FROM used WHERE scope = ? AND id = ? AND day = ?", used)


def _behind(sql: sqlite3.Connection, watermark_ms: int) -> list[str] | None:
    (known_ms,) = sql.execute("SELECT watermark_ms FROM state").fetchone()
    if not known_ms or known_ms < watermark_ms:
        return None
    return [name for (name,) in sql.execute("SELECT lease_id FROM leases WHERE granted > settled")]


def portions(
    settled: Mapping[str, Micros], watermark_ms: int, most: int
) -> Iterator[tuple[Sequence[tuple[str, Micros]], int]]:
    """Yield what to settle at once, so that holders do not wait for all of it, and the watermark with the last; else 0.

    A new lease file is told of every lease there ever was.
    """
    rows = list(settled.items())
    last = max(0, len(rows) - 1) // most * most
    for first in range(0, last + 1, most):
        yield rows[first : first + most], watermark_ms if first == last else 0


def _forgotten(name: str, campaigns: Mapping[int, int], day_min: int) -> _Lease | None:
    parts = lease_parts(name)
    if parts is None or parts[2] < day_min:
        return None
    epoch, line_item_id, day = parts
    return _Lease(name, epoch, line_item_id, campaigns.get(line_item_id, 0), day, 0, 0)


def _cover(sql: sqlite3.Connection, claims: Iterable[LateClaim]) -> dict[str, Micros]:
    granted = {}
    for claim in claims:
        row = sql.execute("SELECT campaign_id FROM limits WHERE line_item_id = ?", (claim.line_item_id,)).fetchone()
        if row is None or claim.day < _day_min(sql):
            continue
        name = claim.lease_id
        lease = _lease(sql, name) or _Lease(name, LATE_EPOCH, claim.line_item_id, row[0], claim.day, 0, 0)
        left = _left(sql, claim.line_item_id, claim.day, True)
        taken, needed = claim.charged_micros, 0
        for amount in claim.amounts:
            more = max(needed, taken + amount - lease.granted)
            if more <= needed or more <= left:
                taken, needed = taken + amount, more
        if needed:
            _add(sql, lease, needed)
        granted[name] = lease.granted + needed
    return granted


def _reclaim(sql: sqlite3.Connection, now_ms: int, holder_timeout_ms: int) -> Micros:
    # Silence is measured by the caller's clock alone: a holder that has synced since the last call is alive, however
    # far its own clock is off and however far the caller's was set meanwhile.
    sql.execute(
        "UPDATE holders SET syncs_seen = syncs, seen_ms = ? WHERE state = ? AND (syncs_seen != syncs OR seen_ms > ?)",
        (now_ms, _LIVE, now_ms),
    )
    sql.execute(
        "UPDATE holders SET state = ? WHERE state = ? AND seen_ms < ?", (_FENCED, _LIVE, now_ms - holder_timeout_ms)
    )
    (watermark_ms,) = sql.execute("SELECT watermark_ms FROM state").fetchone()
    reclaimed = 0
    fenced = sql.execute("SELECT epoch, expires_ms FROM holders WHERE state = ?", (_FENCED,)).fetchall()
    for epoch, expires_ms in fenced:
        if closes_ms(expires_ms) > watermark_ms:
            continue
        rows = sql.execute("SELECT * FROM leases WHERE epoch = ? AND granted > settled", (epoch,)).fetchall()
        for lease in (_Lease(*row) for row in rows):
            reclaimed += lease.granted - lease.settled
            _add(sql, lease, lease.settled - lease.granted)
        # Earlier versions kept what was closed.
        sql.execute("DELETE FROM holders WHERE epoch = ? OR state = ?", (epoch, _CLOSED))
    return reclaimed
