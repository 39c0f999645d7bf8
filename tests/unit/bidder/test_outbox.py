"""The outbox: durable before acknowledged, bounded, and nothing lost while the log is away for a moment."""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from functools import partial

import pytest
from prometheus_client import REGISTRY

from bidder.outbox import LaneTuning, Outbox
from dsp.events.topics import Topic
from dsp.kernel.clock import SystemClock
from dsp.kernel.errors import UnavailableError
from dsp.stream.port import Entry
from tests.notices import FACTS, notice
from tests.unit.bidder.fakes import FakeLog
from tests.waiting import until


@pytest.fixture
async def log() -> FakeLog:
    return FakeLog()


@pytest.fixture
async def outbox(log: FakeLog) -> AsyncIterator[Outbox]:
    tuning = {Topic.NOTICES: LaneTuning(5, 1), Topic.DECISIONS: LaneTuning(5, 1)}
    # Without a place on disk there is nothing better than to wait for the log, however long that takes.
    box = Outbox(log, tuning, batch_max=3, clock=SystemClock(), append_ms_max=1)
    await box.start()
    yield box
    log.away, log.fault = False, None
    log.gate.set()
    await box.stop(30.0)


async def test_append_returns_once_durable(outbox: Outbox, log: FakeLog) -> None:
    log.gate.clear()
    write = outbox.append(Topic.NOTICES, "k", b"v")
    await until(lambda: outbox.depth(Topic.NOTICES) == 1)
    await asyncio.sleep(0.02)
    assert not write.done()
    log.gate.set()
    await write
    assert [entry.value for entry in log.appended["notices"]] == [b"v"]


async def test_records_keep_their_order_and_share_appends(outbox: Outbox, log: FakeLog) -> None:
    writes = [outbox.append(Topic.NOTICES, "k", bytes([number])) for number in range(5)]
    await asyncio.gather(*writes)
    assert [entry.value[0] for entry in log.appended["notices"]] == [0, 1, 2, 3, 4]
    assert log.batches == 2  # batch_max is 3


async def test_what_comes_within_some_milliseconds_is_appended_together(log: FakeLog) -> None:
    box = Outbox(log, {Topic.NOTICES: LaneTuning(100, 500)}, batch_max=100, clock=SystemClock())
    await box.start()
    writes = []
    for number in range(10):
        writes.append(box.append(Topic.NOTICES, "k", bytes([number])))
        await asyncio.sleep(0)
    await asyncio.gather(*writes)
    assert log.batches == 1
    assert await box.stop(30.0) == 0


async def test_between_a_hundred_records_encoded_others_have_their_turn(log: FakeLog) -> None:
    box = Outbox(log, {Topic.DECISIONS: LaneTuning(1_000, 1)}, batch_max=1_000, clock=SystemClock())
    turn, encoded = 0, list[int]()

    async def others() -> None:
        nonlocal turn
        while len(encoded) < 250:
            turn += 1
            await asyncio.sleep(0)

    def encode() -> bytes:
        encoded.append(turn)
        return b"v"

    await box.start()
    assert all(box.offer(Topic.DECISIONS, "k", encode) for _ in range(250))
    await others()
    assert await box.stop(30.0) == 0
    assert sorted(Counter(encoded).values()) == [50, 100, 100]


async def test_notice_fails_when_the_log_is_away_and_later_ones_succeed(outbox: Outbox, log: FakeLog) -> None:
    log.away = True
    with pytest.raises(UnavailableError):
        await outbox.append(Topic.NOTICES, "k", b"lost")
    assert not outbox.healthy()
    assert outbox.depth(Topic.NOTICES) == 0
    log.away = False
    await outbox.append(Topic.NOTICES, "k", b"kept")
    await until(outbox.healthy)
    assert [entry.value for entry in log.appended["notices"]] == [b"kept"]


async def test_a_bidder_is_ready_again_though_no_record_comes_to_try_the_log_with(outbox: Outbox, log: FakeLog) -> None:
    log.away = True
    with pytest.raises(UnavailableError):
        await outbox.append(Topic.NOTICES, "k", b"v")
    assert not outbox.healthy()
    log.away = False
    await until(outbox.healthy)  # nobody sends anything to a bidder that is not ready


async def test_a_fault_nobody_foresaw_is_no_acknowledgement(outbox: Outbox, log: FakeLog) -> None:
    log.fault, before = RuntimeError("disk on fire"), dropped()
    with pytest.raises(UnavailableError):
        await outbox.append(Topic.NOTICES, "k", b"v")
    assert dropped() == {**before, "notices": before["notices"] + 1}


async def test_decisions_survive_a_log_that_comes_back(outbox: Outbox, log: FakeLog) -> None:
    log.away = True
    assert all(outbox.offer(Topic.DECISIONS, "k", partial(bytes, [number])) for number in range(4))
    await until(lambda: not outbox.healthy())
    log.away = False
    await until(lambda: outbox.depth(Topic.DECISIONS) == 0)
    assert [entry.value[0] for entry in log.appended["decisions"]] == [0, 1, 2, 3]


def dropped() -> dict[str, float]:
    topics = ("decisions", "notices")
    return {one: REGISTRY.get_sample_value("dsp_outbox_dropped_total", {"topic": one}) or 0.0 for one in topics}


async def test_the_bound_drops_decisions_and_refuses_notices(outbox: Outbox, log: FakeLog) -> None:
    log.gate.clear()
    before = dropped()
    assert outbox.offer(Topic.DECISIONS, "k", lambda: b"v")
    await until(lambda: log.waiting == 1)  # what is being written counts as well
    assert [outbox.offer(Topic.DECISIONS, "k", lambda: b"v") for _ in range(6)] == [True] * 4 + [False] * 2
    kept = [outbox.append(Topic.NOTICES, "k", b"v") for _ in range(5)]
    with pytest.raises(UnavailableError):
        outbox.append(Topic.NOTICES, "k", b"v")
    assert dropped() == {**before, "decisions": before["decisions"] + 2}  # a notice that is refused comes again
    outbox.report()
    assert REGISTRY.get_sample_value("dsp_outbox_depth", {"topic": "decisions"}) == 5
    log.gate.set()
    await asyncio.gather(*kept)


async def test_stop_writes_what_is_left(log: FakeLog) -> None:
    box = Outbox(log, {Topic.DECISIONS: LaneTuning(100, 1)}, batch_max=3, clock=SystemClock())
    await box.start()
    for number in range(50):
        box.offer(Topic.DECISIONS, "k", partial(bytes, [number]))
    assert await box.stop(5.0) == 0
    assert len(log.appended["decisions"]) == 50
    assert not box.offer(Topic.DECISIONS, "k", lambda: b"after")


async def test_stop_gives_up_in_time_and_says_how_much_is_lost(log: FakeLog) -> None:
    box = Outbox(
        log, {Topic.DECISIONS: LaneTuning(100, 1), Topic.NOTICES: LaneTuning(100, 1)}, batch_max=1, clock=SystemClock()
    )
    await box.start()
    log.gate.clear()
    before = dropped()
    box.offer(Topic.DECISIONS, "k", lambda: b"v")
    writes = [box.append(Topic.NOTICES, "k", b"v") for _ in range(3)]
    assert await box.stop(0.05) == 1  # the decision; the notices were refused, so they are not lost
    assert dropped() == {**before, "decisions": before["decisions"] + 1}
    for write in writes:
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(write, 1.0)


async def test_stop_ends_while_what_was_refused_together_is_written_one_by_one() -> None:
    class Choosy(FakeLog):
        async def append(self, topic: str, entries: Sequence[Entry]) -> int:
            if len(entries) > 1:
                raise RuntimeError("one of them is unusable")
            self.gate.clear()  # it takes its time
            return await super().append(topic, entries)

    log = Choosy()
    box = Outbox(log, {Topic.NOTICES: LaneTuning(100, 1)}, batch_max=3, clock=SystemClock())
    await box.start()
    writes = [box.append(Topic.NOTICES, "k", b"v") for _ in range(3)]
    await until(lambda: log.waiting == 1)
    assert await asyncio.wait_for(box.stop(0.05), 5.0) == 0
    for write in writes:
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(write, 1.0)


async def test_a_record_that_cannot_be_encoded_is_dropped_alone(outbox: Outbox, log: FakeLog) -> None:
    def refuse() -> bytes:
        raise OverflowError("no number of the format's")

    for encode in (lambda: b"before", refuse, lambda: b"after"):
        assert outbox.offer(Topic.DECISIONS, "k", encode)
    await until(lambda: len(log.appended.get("decisions", [])) == 2)
    assert [entry.value for entry in log.appended["decisions"]] == [b"before", b"after"]
    await until(lambda: not outbox.depth(Topic.DECISIONS))
    assert outbox.healthy()


def test_what_records_are_made_of_is_out_of_the_garbage_collectors_sight() -> None:
    assert not any(gc.is_tracked(one) for one in (FACTS, notice()))


async def test_samples_that_cannot_be_written_do_not_turn_traffic_away(log: FakeLog) -> None:
    tuning = {Topic.NOTICES: LaneTuning(1, 1), Topic.REQUESTS: LaneTuning(1, 1)}
    box = Outbox(log, tuning, batch_max=3, clock=SystemClock())
    log.away = True
    assert box.offer(Topic.REQUESTS, "k", lambda: b"sample")
    assert not box.offer(Topic.REQUESTS, "k", lambda: b"no room")
    assert box.healthy()
    box.append(Topic.NOTICES, "k", b"v").cancel()
    assert not box.healthy()
