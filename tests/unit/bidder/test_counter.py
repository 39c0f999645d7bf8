"""Bids are counted by what reports tell apart, and handed to the event log as numbered records."""

import asyncio
import dataclasses
from typing import Any

import msgspec
import pytest

from bidder import counter
from bidder.counter import COUNTS_MAX, BidCounter
from bidder.journal import Journal
from bidder.outbox import LaneTuning, Outbox
from dsp.events.schema import BidCount, BidsSent, decode
from dsp.events.topics import Topic
from dsp.kernel.clock import MS_PER_HOUR, ManualClock
from dsp.kernel.metrics import OUTBOX_DROPPED
from tests.integration.bidder.world import bid_request
from tests.notices import FACTS
from tests.unit.bidder.fakes import FakeLog
from tests.unit.bidder.markets import Market
from tests.waiting import until


def outbox(log: FakeLog, records_max: int = 100) -> Outbox:
    tuning = {topic: LaneTuning(records_max, 0) for topic in (Topic.DECISIONS, Topic.NOTICES, Topic.REQUESTS)}
    return Outbox(log, tuning, 100, ManualClock())


def sent(log: FakeLog) -> list[BidsSent]:
    entries = log.appended.get(Topic.NOTICES, [])
    found = [event for entry in entries if isinstance(event := decode(entry.value), BidsSent)]
    assert [entry.key for entry in entries] == [one.sender for one in found]  # so they keep their order
    return found


async def test_bids_are_summed_by_line_item_creative_exchange_and_hour() -> None:
    log = FakeLog()
    lanes = outbox(log)
    await lanes.start()
    made = BidCounter(lanes)
    last = msgspec.structs.replace(FACTS, bid_at_ms=MS_PER_HOUR - 1)
    for facts in (FACTS, last, msgspec.structs.replace(last, bid_at_ms=MS_PER_HOUR), FACTS):
        made.count(facts)
    await made.hand_over()
    await made.hand_over()  # nothing has come since
    made.count(msgspec.structs.replace(FACTS, creative_id=5))
    await made.stop()
    assert await lanes.stop(5.0) == 0
    first, second = sent(log)
    assert (first.number, second.number, first.sender) == (1, 2, second.sender)
    assert first.at_ms == FACTS.bid_at_ms
    owner = (FACTS.advertiser_id, FACTS.campaign_id, FACTS.line_item_id)
    assert sorted(first.counts, key=lambda one: one.hour) == [
        BidCount(*owner, FACTS.creative_id, FACTS.exchange, FACTS.day, 0, 3),
        BidCount(*owner, FACTS.creative_id, FACTS.exchange, FACTS.day, 1, 1),
    ]
    assert second.counts == (BidCount(*owner, 5, FACTS.exchange, FACTS.day, 0, 1),)


async def test_another_process_is_another_sender() -> None:
    log = FakeLog()
    lanes = outbox(log)
    await lanes.start()
    for made in (BidCounter(lanes), BidCounter(lanes)):
        made.count(FACTS)
        await made.stop()
    await lanes.stop(5.0)
    one, two = sent(log)
    assert one.sender != two.sender
    assert (one.number, two.number) == (1, 1)


async def test_a_record_is_of_bounded_size_and_bids_come_between_two() -> None:
    log = FakeLog()
    lanes = outbox(log)
    await lanes.start()
    made = BidCounter(lanes)
    for creative_id in range(2 * COUNTS_MAX + 1):
        made.count(msgspec.structs.replace(FACTS, creative_id=creative_id))
    asyncio.get_running_loop().call_soon(made.count, msgspec.structs.replace(FACTS, creative_id=-1))
    await made.stop()
    await lanes.stop(5.0)
    assert [one.number for one in sent(log)] == [1, 2, 3]
    assert max(len(one.counts) for one in sent(log)) == COUNTS_MAX
    counted = [count.creative_id for one in sent(log) for count in one.counts]
    assert sorted(counted) == [-1, *range(2 * COUNTS_MAX + 1)]


async def test_a_full_outbox_drops_and_counts() -> None:
    dropped = OUTBOX_DROPPED.labels(Topic.NOTICES.value)
    before = dropped._value.get()
    made = BidCounter(outbox(FakeLog(), records_max=0))
    made.count(FACTS)
    await made.hand_over()
    assert dropped._value.get() == before + 1


async def test_a_running_counter_hands_over_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counter, "HAND_OVER_SECONDS", 0.01)
    log = FakeLog()
    lanes = outbox(log)
    await lanes.start()
    made = BidCounter(lanes)
    await made.start()
    made.count(FACTS)
    await until(lambda: bool(sent(log)))
    await made.stop()
    await lanes.stop(5.0)


async def test_bids_that_leave_are_counted_and_tests_are_not() -> None:
    market = Market()
    journal: Any = Journal(market.outbox, b"k", 0.0)
    market.auctioneer = dataclasses.replace(market.auctioneer, journal=journal)
    await market.outbox.start()
    for number in range(3):
        answer, _ = await market.ask(bid_request(f"a{number}"))
        assert answer.status == 200
    answer, _ = await market.ask({**bid_request("t"), "test": 1})
    assert answer.status == 200
    answer, _ = await market.ask({**bid_request("n"), "bcat": [], "imp": [{"id": "1", "banner": {"w": 1, "h": 1}}]})
    assert answer.status == 204
    await journal.counter.stop()
    await market.outbox.stop(5.0)
    (record,) = sent(market.log)
    (count,) = record.counts
    assert (count.line_item_id, count.exchange, count.bids) == (10, market.profile.name, 3)
