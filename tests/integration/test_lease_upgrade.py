"""A lease file of an earlier version: its money is not spent twice, and an unknown one is refused with what to do."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from dsp.cache.local import LocalLeaseStore
from dsp.cache.port import LeaseWant, Limit
from dsp.kernel.clock import ManualClock
from dsp.kernel.errors import ConfigError, ConflictError
from dsp.ledger.terms import closes_ms, lease_id

NOW_MS = ManualClock().now_ms()
DAY = NOW_MS // 86_400_000
HOUR_MS = 3_600_000
OLD_EPOCH = NOW_MS - HOUR_MS
#: As it was before holders promised when their last bid expires; the other tables are as they still are.
OLD_HOLDERS = """
CREATE TABLE holders (
    epoch INTEGER PRIMARY KEY, holder TEXT NOT NULL, seen_ms INTEGER NOT NULL, state INTEGER NOT NULL);
"""


async def make_file(path: Path) -> None:
    """Leave a file behind with 600 of 1000 granted to a live holder, of which 150 were billed."""
    store = LocalLeaseStore(path, "NORMAL")
    await store.open()
    await store.close()
    name = lease_id(OLD_EPOCH, 1, DAY)
    with closing(sqlite3.connect(path)) as sql, sql:
        sql.executescript(f"DROP TABLE holders; {OLD_HOLDERS}")
        sql.execute("INSERT INTO holders VALUES (?, 'bidder', ?, 0)", (OLD_EPOCH, NOW_MS))
        sql.execute("INSERT INTO leases VALUES (?, ?, 1, 7, ?, 600, 150)", (name, OLD_EPOCH, DAY))
        scopes = [(scope, owner, day) for scope, owner in (("line_item", 1), ("campaign", 7)) for day in (DAY, -1)]
        sql.executemany("INSERT INTO used VALUES (?, ?, ?, 600)", scopes)
        sql.execute("INSERT INTO limits VALUES (1, 7, 1000, NULL, NULL, NULL)")
        sql.execute("UPDATE state SET epoch = ?, watermark_ms = ?", (OLD_EPOCH, NOW_MS - 1_000))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalLeaseStore]:
    await make_file(tmp_path / "leases.db")
    store = LocalLeaseStore(tmp_path / "leases.db", "NORMAL")
    await store.open()
    yield store
    await store.close()


async def granted(store: LocalLeaseStore, epoch: int) -> int:
    report = await store.sync(epoch, NOW_MS, [LeaseWant(1, DAY, 5_000)], {}, NOW_MS)
    return sum(state.granted_micros for state in report.leases)


async def test_bidding_goes_on_and_what_old_leases_may_still_spend_is_not_granted_again(store: LocalLeaseStore) -> None:
    with pytest.raises(ConflictError):
        await store.sync(OLD_EPOCH, NOW_MS, [], {}, NOW_MS)
    epoch = await store.register("bidder", NOW_MS)
    assert epoch > OLD_EPOCH
    assert await granted(store, epoch) == 400
    await store.settle({lease_id(OLD_EPOCH, 1, DAY): 250}, NOW_MS + 23 * HOUR_MS)  # a bid of then won after all
    assert await store.reclaim(NOW_MS, 30_000) == 0
    await store.settle({}, closes_ms(NOW_MS + 24 * HOUR_MS))
    assert await store.reclaim(NOW_MS, 30_000) == 350
    assert await granted(store, epoch) == 750
    await store.set_limits([Limit(1, 7, 1_000, None, None, None)])
    assert await granted(store, epoch) == 750


async def test_it_is_upgraded_once(store: LocalLeaseStore, tmp_path: Path) -> None:
    epoch = await store.register("bidder", NOW_MS)
    again = LocalLeaseStore(tmp_path / "leases.db", "NORMAL")
    await again.open()
    try:
        assert await granted(again, epoch) == 400
    finally:
        await again.close()


async def test_a_file_of_an_unknown_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    await make_file(tmp_path / "leases.db")
    with closing(sqlite3.connect(tmp_path / "leases.db")) as sql:
        sql.execute("ALTER TABLE holders ADD COLUMN lamport INTEGER")
    store = LocalLeaseStore(tmp_path / "leases.db", "NORMAL")
    with pytest.raises(ConfigError, match="move the file away"):
        await store.open()
