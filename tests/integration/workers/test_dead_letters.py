"""Records that no consumer can use: kept apart with the reason, counted, and in nobody's way."""

from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from dsp.events.dead_letter import decode as decode_letter
from dsp.events.schema import BidsSent, Notice, SampledRequest, encode
from dsp.events.topics import Topic
from dsp.kernel.clock import ManualClock
from dsp.kernel.errors import UnavailableError
from dsp.kernel.metrics import POISON_RECORDS
from dsp.stream.local import LocalEventLog
from dsp.stream.port import Record
from dsp.workers.dead_letters import VALUE_BYTES_MAX, Poison, park, sift
from tests.notices import bids_sent, notice
from tests.unit.bidder.fakes import FakeLog


def test_what_is_no_event_of_the_kind_is_set_apart() -> None:
    foreign = SampledRequest(auction_id="a", exchange="e", at_ms=1, body=b"", outcome="bid")
    values = [b"", encode(notice(1)), b"\xc1", encode(foreign), encode(notice(2))[:-3], encode(notice(3))]
    records = [Record(0, offset, 1, "key", value) for offset, value in enumerate(values, 1)]
    found, poison = sift(records, Notice)
    assert [(record.offset, event.facts.bid_id) for record, event in found] == [(2, "bid-1"), (6, "bid-3")]
    assert [one.record.offset for one in poison] == [1, 3, 4, 5]
    assert "SampledRequest" in poison[2].fault


def test_what_belongs_in_the_topic_and_is_not_asked_for_is_left_alone() -> None:
    events = (notice(1), bids_sent(1, 5))
    records = [Record(0, offset, 1, "key", encode(event)) for offset, event in enumerate(events, 1)]
    assert [event for _, event in sift(records, Notice, beside=(BidsSent,))[0]] == [events[0]]
    assert sift(records, Notice, beside=(BidsSent,))[1] == []
    assert [event for _, event in sift(records, (Notice, BidsSent))[0]] == list(events)


@pytest.mark.parametrize(
    "event",
    [
        notice(cost_micros=1 << 63),
        notice(cost_micros=(1 << 63) - 1),  # two of them are more than a database can sum up
        notice(cost_micros=-1),
        notice(cost_micros_max=1 << 62),
        notice(line_item_id=1 << 63),
        notice(day=1 << 40),
        notice(expires_at_ms=(1 << 63) - 1),
        msgspec.structs.replace(notice(), at_ms=1 << 62),
        msgspec.structs.replace(notice(), at_ms=-1),
        msgspec.structs.replace(notice(), clearing_micros_cpm=(1 << 64) - 1),
        msgspec.structs.replace(notice(), value_micros=1 << 62),
    ],
)
def test_what_no_column_or_sum_can_hold_is_no_event(event: Notice) -> None:
    found, poison = sift([Record(0, 1, 1, "key", encode(event))], Notice)
    assert not found
    assert "Expected `int`" in poison[0].fault


async def test_a_letter_says_where_it_stood_and_fits_where_it_did(tmp_path: Path) -> None:
    log = LocalEventLog(tmp_path, ManualClock())
    await log.open()
    before = POISON_RECORDS.labels(topic="decisions")._value.get()
    large = Record(3, 8, 70, "k" * 5_000, b"x" * (VALUE_BYTES_MAX + 1))
    await park(log, Topic.DECISIONS, "group", [Poison(Record(2, 7, 60, "key", b"\xc1"), "why"), Poison(large, "size")])
    await park(log, Topic.DECISIONS, "group", [])
    records = (await log.read(Topic.DEAD_LETTERS, {}, 10)).records
    letters = [decode_letter(record.value) for record in records]
    assert [record.key for record in records] == ["decisions/2/7", "decisions/3/8"]
    assert (letters[0].topic, letters[0].partition, letters[0].offset) == ("decisions", 2, 7)
    assert (letters[0].value, letters[0].key, letters[0].appended_ms) == (b"\xc1", "key", 60)
    assert (letters[0].group, letters[0].fault) == ("group", "why")
    assert len(letters[1].value) == VALUE_BYTES_MAX
    assert POISON_RECORDS.labels(topic="decisions")._value.get() - before == 2
    await log.close()


async def test_a_batch_of_poison_is_one_line_of_the_log() -> None:
    poison = [Poison(Record(2, offset, 60, "key", b"\xc1"), "why") for offset in range(7, 1_007)]
    with capture_logs() as logs:
        await park(FakeLog(), Topic.DECISIONS, "group", poison)
    (line,) = logs
    assert (line["event"], line["records"], line["fault"]) == ("records parked", 1_000, "why")
    assert (line["topic"], line["partition"], line["first_offset"]) == ("decisions", 2, 7)


async def test_what_could_not_be_parked_is_not_counted() -> None:
    before = POISON_RECORDS.labels(topic="decisions")._value.get()
    with pytest.raises(UnavailableError):
        await park(FakeLog(away=True), Topic.DECISIONS, "group", [Poison(Record(0, 0, 0, "", b""), "why")])
    assert POISON_RECORDS.labels(topic="decisions")._value.get() == before
