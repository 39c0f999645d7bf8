"""A bidder's leases are synced again and again, whatever becomes of the store, and returned at an orderly end."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from bidder.sync import LeaseSync
from dsp.cache.local import LocalLeaseStore
from dsp.cache.port import LeaseReport, LeaseState, LeaseWant, Limit
from dsp.kernel.clock import ManualClock, SystemClock
from dsp.kernel.errors import ClockError, UnavailableError
from dsp.kernel.money import Micros
from dsp.ledger.lease import LeaseBook
from dsp.ledger.terms import lease_id
from tests.waiting import until

DAY_MS = 86_400_000


class Slow(LocalLeaseStore):
    """Does at once what it is asked, and answers when it may."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "NORMAL")
        self.granted = False
        self.answers = asyncio.Event()

    async def sync(
        self, epoch: int, now_ms: int, wants: Sequence[LeaseWant], returns: Mapping[str, Micros], expires_ms_max: int
    ) -> LeaseReport:
        report = await super().sync(epoch, now_ms, wants, returns, expires_ms_max)
        if report.leases:
            self.granted = True
            await self.answers.wait()
        return report


async def test_what_is_granted_while_it_stops_is_returned(tmp_path: Path) -> None:
    store, clock, book = Slow(tmp_path / "leases.db"), SystemClock(), LeaseBook(0)
    await store.open()
    await store.set_limits([Limit(10, 2, None, None, None, None)])
    sync = LeaseSync(store, book, "bidder", 10, clock)
    await sync.start()
    now_ms = clock.now_ms()
    book.reserve(10, now_ms // DAY_MS, "", 1_000, clock.elapsed_ns() // 1_000_000, now_ms + DAY_MS)  # nothing there
    await until(lambda: store.granted)
    stopping = asyncio.create_task(sync.stop())
    await asyncio.sleep(0.05)
    store.answers.set()
    await stopping
    await store.close()
    with closing(sqlite3.connect(tmp_path / "leases.db")) as sql:
        assert sql.execute("SELECT count(*), sum(granted) FROM leases").fetchone() == (1, 0)


class Faulty(LocalLeaseStore):
    """Answers as it is told to."""

    fault: Exception | None = None
    syncs = 0

    async def register(self, holder: str, now_ms: int) -> int:
        if self.fault is not None:
            raise self.fault
        return await super().register(holder, now_ms)

    async def sync(
        self, epoch: int, now_ms: int, wants: Sequence[LeaseWant], returns: Mapping[str, Micros], expires_ms_max: int
    ) -> LeaseReport:
        self.syncs += 1
        if self.fault is not None:
            raise self.fault
        return await super().sync(epoch, now_ms, wants, returns, expires_ms_max)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Faulty]:
    made = Faulty(tmp_path / "leases.db", "NORMAL")
    await made.open()
    yield made
    await made.close()


def counted(result: str) -> float:
    return REGISTRY.get_sample_value("dsp_lease_syncs_total", {"result": result}) or 0.0


async def test_whose_name_another_has_taken_begins_anew(store: Faulty) -> None:
    clock, book = ManualClock(), LeaseBook(0)
    sync = LeaseSync(store, book, "bidder", 1_000, clock)
    assert await sync.sync()
    other, before = await store.register("bidder", clock.now_ms()), counted("fenced")
    assert not await sync.sync()
    assert counted("fenced") == before + 1
    assert await sync.sync()
    assert book.epoch > other


@pytest.mark.parametrize(
    "fault",
    [UnavailableError("away"), ClockError("a day ahead"), RuntimeError("unforeseen")],
    ids=["unavailable", "clock", "failed"],
)
async def test_a_fault_is_counted_and_left_to_the_next_sync(
    store: Faulty, fault: Exception, request: pytest.FixtureRequest
) -> None:
    result = request.node.callspec.id
    sync, before = LeaseSync(store, LeaseBook(0), "bidder", 10, SystemClock()), counted(result)
    store.fault = fault
    await sync.start()  # the bidder starts all the same, and bids once there is money
    await until(lambda: counted(result) >= before + 3)
    store.fault, before = None, counted("synced")
    await until(lambda: counted("synced") >= before + 3)
    await sync.stop()


async def test_who_never_had_a_lease_takes_no_name_to_return_it(store: Faulty) -> None:
    sync = LeaseSync(store, LeaseBook(0), "bidder", 1_000, SystemClock())
    store.fault = UnavailableError("away")
    await sync.start()
    store.fault = None
    await sync.stop()
    assert store.syncs == 0


async def test_the_first_demand_does_not_wait_for_the_interval(store: Faulty) -> None:
    await store.set_limits([Limit(10, 2, None, None, None, None)])
    clock, book = SystemClock(), LeaseBook(0)
    sync = LeaseSync(store, book, "bidder", 3_600_000, clock)
    await sync.start()
    await asyncio.sleep(0.2)
    assert store.syncs == 1
    now_ms = clock.now_ms()
    book.reserve(10, now_ms // DAY_MS, "", 1_000, clock.elapsed_ns() // 1_000_000, now_ms + DAY_MS)
    await until(lambda: book.free_micros)
    await sync.stop()


async def test_gauges_tell_the_money_and_how_far_the_ledger_is(store: Faulty) -> None:
    await store.set_limits([Limit(10, 2, None, None, None, None)])
    clock, book = ManualClock(), LeaseBook(0)
    sync = LeaseSync(store, book, "bidder", 1_000, clock)
    await store.settle({}, clock.now_ms() - 3_000)
    day, expires_ms = clock.now_ms() // DAY_MS, clock.now_ms() + 60_000
    for bid_id in ("nothing there", "no promise yet", "one"):
        lease = book.reserve(10, day, bid_id, 1_000, clock.elapsed_ns() // 1_000_000, expires_ms)
        assert await sync.sync()
    assert lease is not None
    sync.report()
    gauges = ("dsp_lease_free_micros", "dsp_lease_reserved_micros", "dsp_lease_watermark_age_seconds")
    assert [REGISTRY.get_sample_value(one) for one in gauges] == [book.free_micros, 1_000, 3.0]
    assert book.free_micros > 0


async def test_a_ledger_that_stands_still_is_told_whatever_the_log_s_clock_says(store: Faulty) -> None:
    clock = ManualClock()
    sync = LeaseSync(store, LeaseBook(0), "bidder", 1_000, clock)
    await store.settle({}, clock.now_ms() + DAY_MS)
    for age_seconds in (0.0, 60.0, 120.0):
        assert await sync.sync()
        sync.report()
        assert REGISTRY.get_sample_value("dsp_lease_watermark_age_seconds") == age_seconds
        clock.advance(60_000)


class Prompt(Faulty):
    """Grants everything, and lets nobody else have a turn meanwhile."""

    async def sync(
        self, epoch: int, now_ms: int, wants: Sequence[LeaseWant], returns: Mapping[str, Micros], expires_ms_max: int
    ) -> LeaseReport:
        return LeaseReport(
            [LeaseState(lease_id(epoch, item, day), item, day, amount, 0) for item, day, amount in wants], now_ms
        )


async def test_bids_have_their_turn_while_thousands_of_leases_are_looked_at(tmp_path: Path) -> None:
    store, clock, book, count, turns = Prompt(tmp_path / "leases.db"), ManualClock(), LeaseBook(0), 4_000, 0
    await store.open()
    sync = LeaseSync(store, book, "bidder", 1_000, clock)
    assert await sync.sync()
    for line_item_id in range(count):
        book.reserve(line_item_id, 0, str(line_item_id), 1, clock.elapsed_ns() // 1_000_000, clock.now_ms() + DAY_MS)

    async def bids() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    bidding = asyncio.create_task(bids())
    assert await sync.sync()
    bidding.cancel()
    assert turns >= 4 * (count // 256)  # what is wanted, what goes back, what was granted, what was not
    assert book.free_micros > 0
    await store.close()
