"""The outbox's disk: what the event log does not take is durable there, keeps its order, and leaves when it can."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from bidder.config import BidderConfig
from bidder.outbox import RETRY_SECONDS, LaneTuning, Outbox
from bidder.spill import DRAIN_RECORDS_MAX, PROBE_RECORDS, Spill
from bidder.state import Serving
from bidder.wiring import Deployment, wire
from dsp.events.topics import Topic
from dsp.kernel.clock import SystemClock
from dsp.kernel.config import Platform
from dsp.kernel.errors import UnavailableError
from dsp.ledger.lease import LeaseBook
from dsp.stream.local import LocalEventLog
from dsp.stream.port import Entry
from tests.unit.bidder.fakes import FakeLog, FakeUsers
from tests.waiting import until

TUNING = {Topic.NOTICES: LaneTuning(100, 1), Topic.DECISIONS: LaneTuning(100, 1)}


def boxed(log: FakeLog, store: LocalEventLog, records_max: int = 1_000) -> Outbox:
    spills = {topic: Spill(store, topic, records_max) for topic in TUNING}
    return Outbox(log, TUNING, batch_max=3, clock=SystemClock(), spills=spills, append_ms_max=50)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalEventLog]:
    made = LocalEventLog(tmp_path / "spill", SystemClock())
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def log() -> FakeLog:
    return FakeLog()


def values(log: FakeLog, topic: Topic = Topic.NOTICES) -> list[int]:
    return [entry.value[0] for entry in log.appended.get(topic.value, [])]


async def test_notices_are_durable_while_the_log_is_away_and_leave_in_order(log: FakeLog, store: LocalEventLog) -> None:
    box, stamps = boxed(log, store), list[int]()
    await box.start()
    await box.append(Topic.NOTICES, "k", bytes([0]), stamps.append)
    await until(lambda: len(stamps) == 1)
    log.away = True
    for number in range(1, 8):
        await box.append(Topic.NOTICES, "k", bytes([number]), stamps.append)
    assert values(log) == [0]
    assert len(stamps) == 1  # durable, and not stamped yet
    assert box.healthy()
    box.report()
    assert REGISTRY.get_sample_value("dsp_outbox_spilled", {"topic": "notices"}) == 7
    log.away = False
    # What comes while it drains stays behind what waits.
    for number in range(8, 12):
        await box.append(Topic.NOTICES, "k", bytes([number]), stamps.append)
    await until(lambda: len(stamps) == 12)
    assert values(log) == list(range(12))
    await box.append(Topic.NOTICES, "k", bytes([12]))
    await until(lambda: values(log) == list(range(13)))
    assert await box.stop(30.0) == 0
    assert await store.lag(Topic.NOTICES, {}) == 0


async def test_a_log_that_is_away_is_asked_with_little_and_then_given_no_more_than_a_bid_can_wait_for(
    log: FakeLog, store: LocalEventLog
) -> None:
    spill, offered, append = Spill(store, Topic.NOTICES, 10_000), list[int](), log.append

    async def counted(topic: str, entries: Sequence[Entry]) -> int:
        offered.append(len(entries))
        return await append(topic, entries)

    log.append = counted  # type: ignore[method-assign]
    await spill.open()
    await spill.put([Entry("k", bytes([number % 251])) for number in range(1_000)], [None] * 1_000)
    for _ in range(6):
        await spill.drain(log, 2_000)
    assert max(offered) > 100
    log.away = True
    for _ in range(3):
        with pytest.raises(UnavailableError):
            await spill.drain(log, 2_000)
    assert offered[-2:] == [PROBE_RECORDS] * 2
    log.away = False
    while spill.depth:
        await spill.drain(log, 2_000)
    assert values(log) == [number % 251 for number in range(1_000)]
    assert max(offered) <= DRAIN_RECORDS_MAX


async def test_a_log_that_hangs_holds_nobody_up_for_long(log: FakeLog, store: LocalEventLog) -> None:
    box = boxed(log, store)
    await box.start()
    log.gate.clear()
    async with asyncio.timeout(30.0):  # the log does not answer before the gate is open
        for number in range(5):
            await box.append(Topic.NOTICES, "k", bytes([number]))
    log.gate.set()
    assert await box.stop(30.0) == 0
    assert values(log) == list(range(5))  # who stops hands over what is on disk, as long as there is time


async def test_who_stops_does_not_wait_for_a_log_that_hangs(log: FakeLog, store: LocalEventLog) -> None:
    spills = {Topic.NOTICES: Spill(store, Topic.NOTICES, 100)}
    box = Outbox(log, TUNING, batch_max=3, clock=SystemClock(), spills=spills, append_ms_max=60_000)
    await box.start()
    log.gate.clear()
    write = box.append(Topic.NOTICES, "k", b"v")
    await until(lambda: log.waiting == 1)
    await asyncio.wait_for(box.stop(0.05), 30.0)
    with pytest.raises(UnavailableError):
        await write


@pytest.mark.parametrize("spilled", [False, True])
async def test_a_log_that_is_away_is_asked_now_and_then(store: LocalEventLog, spilled: bool) -> None:
    class Away(FakeLog):
        asked = 0

        async def append(self, topic: str, entries: Sequence[Entry]) -> int:
            self.asked += 1
            return await super().append(topic, entries)

    log = Away(away=True)
    box = boxed(log, store) if spilled else Outbox(log, TUNING, batch_max=3, clock=SystemClock())
    await box.start()
    box.offer(Topic.DECISIONS, "k", partial(bytes, [0]))
    await until(lambda: log.asked > 1)
    before = log.asked
    await asyncio.sleep(2 * RETRY_SECONDS)
    assert log.asked - before <= 3
    log.away = False
    assert await box.stop(30.0) == 0


async def test_the_next_process_hands_over_what_the_last_one_left(log: FakeLog, store: LocalEventLog) -> None:
    log.away = True
    first = boxed(log, store)
    await first.start()
    for number in range(10):
        await first.append(Topic.NOTICES, "k", bytes([number]))
        first.offer(Topic.DECISIONS, "k", bytes([number]))
    await until(lambda: first.depth(Topic.DECISIONS) == 0)
    assert await first.stop(0.05) == 0  # nothing is lost: it is on disk
    log.away = False
    second = boxed(log, store)
    await second.start()
    await second.append(Topic.NOTICES, "k", bytes([10]))
    await until(lambda: len(values(log)) == 11 and len(values(log, Topic.DECISIONS)) == 10)
    assert values(log) == list(range(11))
    assert values(log, Topic.DECISIONS) == list(range(10))
    await second.stop(30.0)


async def test_beyond_the_bound_notices_are_refused_and_nothing_acknowledged_is_lost(
    log: FakeLog, store: LocalEventLog
) -> None:
    log.away = True
    box = boxed(log, store, records_max=4)
    await box.start()
    for number in range(4):
        await box.append(Topic.NOTICES, "k", bytes([number]))
    with pytest.raises(UnavailableError):
        await box.append(Topic.NOTICES, "k", b"refused")
    assert not box.healthy()
    log.away = False
    await until(lambda: len(values(log)) == 4)
    await box.append(Topic.NOTICES, "k", bytes([4]))
    await until(lambda: len(values(log)) == 5)  # by way of the disk, if that still knows of those before
    assert values(log) == list(range(5))
    assert box.healthy()
    await box.stop(30.0)


async def test_sampled_requests_never_wait_on_disk(log: FakeLog, store: LocalEventLog) -> None:
    log.away = True
    deployment, config = Deployment(Platform(), {}, [b"k" * 16]), BidderConfig(outbox_decisions_flush_ms=1)
    parts = {"serving": Serving(), "leases": LeaseBook(0), "users": FakeUsers()}
    box = wire(deployment, config, SystemClock(), log, spill=store, **parts).outbox
    await box.start()
    for topic in (Topic.REQUESTS, Topic.DECISIONS):
        box.offer(topic, "k", lambda: b"some")
    await until(lambda: box.depth(Topic.DECISIONS) == 0)
    assert await store.lag(Topic.DECISIONS, {}) == 1
    assert await store.lag(Topic.REQUESTS, {}) == 0
    log.away = False
    await until(lambda: len(log.appended) == 2)
    assert await box.stop(30.0) == 0


class FullDisk(LocalEventLog):
    """Takes nothing while it is full, as SQLite does: the transaction is rolled back."""

    full = False

    async def append(self, topic: str, entries: Sequence[Entry]) -> int:
        if self.full:
            raise UnavailableError(repr(sqlite3.OperationalError("database or disk is full")))
        return await super().append(topic, entries)


async def test_a_full_disk_refuses_and_recovers(log: FakeLog, tmp_path: Path) -> None:
    disk = FullDisk(tmp_path / "full", SystemClock())
    await disk.open()
    box, stamped = boxed(log, disk), list[str]()
    await box.start()
    log.away = True
    await box.append(Topic.NOTICES, "k", bytes([0]), lambda _: stamped.append("first"))
    disk.full = True
    with pytest.raises(UnavailableError):
        await box.append(Topic.NOTICES, "k", b"refused", lambda _: stamped.append("refused"))
    box.offer(Topic.DECISIONS, "k", partial(bytes, [0]))  # waits in memory, within its bound
    disk.full = False
    await box.append(Topic.NOTICES, "k", bytes([1]), lambda _: stamped.append("second"))
    log.away = False
    await until(lambda: len(stamped) == 2 and values(log, Topic.DECISIONS) == [0])
    assert values(log) == [0, 1]
    assert stamped == ["first", "second"]
    assert await box.stop(30.0) == 0
    await disk.close()


async def test_a_wait_that_another_cancels_ends_no_lane(log: FakeLog, store: LocalEventLog) -> None:
    for box in (boxed(log, store), Outbox(log, TUNING, batch_max=3, clock=SystemClock())):
        await box.start()
        log.fault = asyncio.CancelledError()  # what a client that is closed does to those who wait for it
        box.offer(Topic.DECISIONS, "k", partial(bytes, [7]))
        await asyncio.sleep(0.1)
        log.fault = None
        await until(lambda: values(log, Topic.DECISIONS) == [7])
        await asyncio.wait_for(box.append(Topic.NOTICES, "k", bytes([8])), 60.0)
        assert await box.stop(30.0) == 0
        log.appended.clear()


def dropped() -> float:
    return REGISTRY.get_sample_value("dsp_outbox_dropped_total", {"topic": "notices"}) or 0.0


class Picky(FakeLog):
    """Refuses a record that is unusable, and with it all that come together with it."""

    async def append(self, topic: str, entries: Sequence[Entry]) -> int:
        if not self.away and any(entry.value == b"unusable" for entry in entries):
            raise ValueError("too large")
        return await super().append(topic, entries)


@pytest.mark.parametrize("away", [False, True], ids=["at once", "from the disk"])
async def test_an_unusable_record_is_dropped_and_holds_up_no_other(store: LocalEventLog, away: bool) -> None:
    log, stamped, before = Picky(away=away), list[bytes](), dropped()
    box = boxed(log, store)
    await box.start()
    writes = [
        box.append(Topic.NOTICES, "k", value, lambda _, value=value: stamped.append(value))  # type: ignore[misc]
        for value in (bytes([0]), b"unusable", bytes([1]))
    ]
    found = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(one) for one in found] == [type(None), type(None) if away else UnavailableError, type(None)]
    log.away = False
    await until(lambda: values(log) == [0, 1])
    await box.append(Topic.NOTICES, "k", bytes([2]))
    await until(lambda: values(log) == [0, 1, 2])
    assert await box.stop(30.0) == 0
    assert stamped == [bytes([0]), bytes([1])]
    assert dropped() == before + 1
