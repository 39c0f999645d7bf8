"""One bid is one impression, whatever its notices do and whoever hears them, before and after a kill."""

import asyncio
from collections.abc import AsyncIterator
from itertools import permutations
from pathlib import Path

import pytest

from bidder.exposures import ExposureReplay
from bidder.pending import PendingExposures
from dsp.cache.local import LocalUserStore
from dsp.catalog.exposures import pack
from dsp.catalog.user import Exposure, Response, UserRecord
from dsp.events.schema import NoticeKind
from dsp.events.topics import Topic
from tests.people import exposure_count, has_bids
from tests.simulation.frequency_world import ListLog
from tests.unit.bidder.test_notices import Desk

WIN, BILL, IMPRESSION, CLICK = NoticeKind.WIN, NoticeKind.BILL, NoticeKind.IMPRESSION, NoticeKind.CLICK
CONVERSION = NoticeKind.CONVERSION


class Counting:
    """A desk with the real user store, and replays into it or into that of another process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.desk = Desk(user_timeout_ms=20)
        self.users = self.store("users.db")
        self.desk.desk._users = self.users
        self.log = ListLog(clock=self.desk.clock)

    def store(self, name: str) -> LocalUserStore:
        return LocalUserStore(self.path / name, save_interval_ms=10**9)

    async def replay(self, users: LocalUserStore, pending: PendingExposures) -> None:
        """Do what a process does at its start, or one of several now and then."""
        entries = self.desk.log.appended.get(Topic.NOTICES, [])[len(self.log.records) :]
        await self.log.append(Topic.NOTICES, entries)
        await ExposureReplay(self.log, users, pending, self.desk.clock).catch_up()


@pytest.fixture
async def counting(tmp_path: Path) -> AsyncIterator[Counting]:
    made = Counting(tmp_path)
    await made.users.open()
    await made.desk.outbox.start()
    yield made
    await made.desk.outbox.stop(1.0)
    await made.users.close()


async def test_every_order_of_repeated_notices_counts_once_at_the_first_proof(counting: Counting) -> None:
    desk, bidden_ms = counting.desk, counting.desk.clock.now_ms()
    for number, kinds in enumerate(permutations([WIN, BILL, IMPRESSION, CLICK])):
        desk.clock.at_ms = bidden_ms
        user = f"user-{number}"
        facts = desk.facts(bid_id=f"b{number}", user_key=user)
        desk.pending.add(user, Exposure(facts.bid_id, bidden_ms, 1, 2, 3))
        for step, kind in enumerate(kinds + kinds[::-1]):
            desk.clock.at_ms = bidden_ms + 10 * step
            await desk.send(kind, facts)
        proved_ms = bidden_ms + (10 if kinds[0] is WIN else 0)
        counted = UserRecord(pack([Exposure(facts.bid_id, proved_ms, 1, 2, 3)]))
        assert counting.users.get(user) == counted
        assert desk.pending.merged(user, counted, desk.clock.now_ms()) is counted
    await counting.replay(counting.users, desk.pending)
    assert counting.users.get(user) == counted
    assert desk.pending.merged(user, counted, desk.clock.now_ms()) is counted


async def test_every_order_of_repeated_responses_is_remembered_once_at_the_first_time(counting: Counting) -> None:
    desk, begun_ms = counting.desk, counting.desk.clock.now_ms()
    for number, kinds in enumerate(permutations([BILL, CLICK, CONVERSION])):
        desk.clock.at_ms = begun_ms
        facts = desk.facts(bid_id=f"b{number}", user_key=f"user-{number}", personal=True, category="IAB2")
        for step, kind in enumerate(kinds + kinds[::-1]):
            desk.clock.at_ms = begun_ms + 10 * step
            await desk.send(kind, facts)
        times = [begun_ms + 10 * kinds.index(kind) for kind in (CLICK, CONVERSION)]
        told = (Response(facts.bid_id, 1, 2, 4, "IAB2", *times),)
        record = counting.users.get(f"user-{number}")
        assert record is not None
        assert record.responses == told
        seen = desk.pending.merged(f"user-{number}", record, desk.clock.now_ms())
        assert seen is not None
        assert seen.responses == told
    await counting.replay(counting.users, desk.pending)
    assert counting.users.get(f"user-{number}") == record
    other = counting.store("other.db")  # of another process, which hears of it from the log
    other.absorb(desk.written, {0: 1})
    assert other.get(f"user-{number}") == record


async def test_without_leave_to_personalise_a_click_is_an_impression_and_no_response(counting: Counting) -> None:
    facts = counting.desk.facts()
    assert (await counting.desk.send(CLICK, facts)).status in (302, 410)
    assert counting.users.get("u") == UserRecord(pack([Exposure("b1", facts.bid_at_ms, 1, 2, 3)]))


async def test_a_late_notice_counts_when_the_impression_was(counting: Counting) -> None:
    desk = counting.desk
    facts = desk.facts()
    desk.clock.advance(7_200_000)
    await desk.send(BILL, facts)
    assert counting.users.get("u") == UserRecord(pack([Exposure("b1", facts.expires_at_ms, 1, 2, 3)]))


async def test_a_kill_loses_and_doubles_nothing(counting: Counting) -> None:
    desk = counting.desk
    for number in range(40):
        desk.clock.advance(1_000)
        facts = desk.facts(bid_id=f"b{number}", user_key=f"u{number % 3}")
        await desk.send(WIN, facts)
        if number % 4:
            await desk.send(BILL, facts)
            await desk.send(IMPRESSION, facts)
        if number == 20:
            await counting.replay(counting.users, desk.pending)
            await counting.users.save()
    before = [counting.users.get(f"u{number}") for number in range(3)]
    successor, pending = counting.store("users.db"), PendingExposures(1_000, 100)
    await successor.open()  # beside the old one, which never saves again
    await counting.replay(successor, pending)
    assert [successor.get(f"u{number}") for number in range(3)] == before
    assert sum(map(exposure_count, before)) == 30
    assert len(pending) == 4  # won since what was saved, and not known to be shown
    successor.position = {}  # from the very beginning: harmless, too
    await counting.replay(successor, pending)
    assert [successor.get(f"u{number}") for number in range(3)] == before
    await successor.close()


async def test_another_process_counts_what_this_one_hears(counting: Counting) -> None:
    desk, other, pending = counting.desk, counting.store("other.db"), PendingExposures(1_000, 100)
    await other.open()
    await desk.send(WIN, desk.facts(bid_id="won"))
    await desk.send(BILL, desk.facts(bid_id="shown"))
    await counting.replay(other, pending)
    seen = pending.merged("u", other.get("u"), desk.clock.now_ms())
    assert has_bids(seen, "shown", "won")
    await desk.send(BILL, desk.facts(bid_id="won"))
    await counting.replay(other, pending)
    assert len(pending) == 0
    await other.close()


@pytest.mark.parametrize("fault", ["hung", "away"])
async def test_a_store_that_does_not_answer_keeps_no_notice_waiting(counting: Counting, fault: str) -> None:
    desk = counting.desk
    desk.desk._users = desk.users
    desk.users.away, desk.users.silent = fault == "away", 3_600.0
    now_ms = desk.clock.now_ms()
    desk.pending.add("u", Exposure("b1", now_ms, 1, 2, 3))
    async with asyncio.timeout(30.0):  # against an hour
        assert (await desk.send(BILL, desk.facts())).status == 200
    assert desk.leases.billed == {"b1": 4_000}
    assert desk.pending.merged("u", None, now_ms) is not None  # until its time is over
    assert (await desk.send(BILL, desk.facts())).status == 200
    await counting.replay(counting.users, desk.pending)  # the log has it
    assert exposure_count(counting.users.get("u")) == 1
    assert len(desk.pending) == 0


async def test_replay_goes_on_by_itself(counting: Counting) -> None:
    pending = PendingExposures(1_000, 100)
    replay = ExposureReplay(counting.log, counting.users, pending, counting.desk.clock, interval_seconds=0.01)
    await replay.start()
    await counting.desk.send(BILL, counting.desk.facts(user_key="later"))
    await counting.log.append(Topic.NOTICES, counting.desk.log.appended[Topic.NOTICES])
    counting.users.position = {}
    async with asyncio.timeout(60.0):
        while counting.users.position != {0: 1}:
            await asyncio.sleep(0.01)
    await replay.stop()
    assert counting.users.get("later") is not None
