"""What every EventLog must do. Implementations are added to the fixture's parameters."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from dsp.kernel.clock import ManualClock
from dsp.kernel.errors import UnavailableError
from dsp.stream.local import LocalEventLog
from dsp.stream.port import Entry, EventLog, Record

TOPIC = "notices"
MakeLog = Callable[[], Awaitable[EventLog]]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["local"])
async def make_log(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[MakeLog]:
    """A maker of logs that share their records, as several processes do."""
    opened: list[EventLog] = []

    async def make() -> EventLog:
        log = {"local": lambda: LocalEventLog(tmp_path / "log", clock, "NORMAL")}[request.param]()
        await log.open()
        opened.append(log)
        return log

    yield make
    for log in opened:
        await log.close()


@pytest.fixture
async def log(make_log: MakeLog) -> EventLog:
    return await make_log()


def entries(*names: str) -> list[Entry]:
    return [Entry("key", name.encode()) for name in names]


async def read_all(log: EventLog, limit: int = 100) -> list[Record]:
    records: list[Record] = []
    position: dict[int, int] = {}
    while True:
        batch = await log.read(TOPIC, position, limit)
        records += batch.records
        position = batch.position
        if batch.end:
            return records


async def test_records_come_back_in_order_with_their_keys(log: EventLog) -> None:
    await log.append(TOPIC, [Entry("a", b"1"), Entry("b", b"2")])
    await log.append(TOPIC, [Entry("", b"")])
    assert [(one.key, one.value) for one in await read_all(log)] == [("a", b"1"), ("b", b"2"), ("", b"")]


async def test_reading_goes_on_after_a_position_in_batches(log: EventLog) -> None:
    await log.append(TOPIC, entries(*"abcde"))
    first = await log.read(TOPIC, {}, 2)
    second = await log.read(TOPIC, first.position, 2)
    third = await log.read(TOPIC, second.position, 2)
    assert [[one.value for one in batch.records] for batch in (first, second, third)] == [
        [b"a", b"b"],
        [b"c", b"d"],
        [b"e"],
    ]
    assert [batch.end for batch in (first, second, third)] == [False, False, True]
    await log.append(TOPIC, entries("f"))
    assert [one.value for one in (await log.read(TOPIC, third.position, 9)).records] == [b"f"]


async def test_topics_do_not_mix(log: EventLog) -> None:
    await log.append("one", entries("1"))
    assert (await log.read("two", {}, 9)).records == []


async def test_another_process_sees_what_was_appended(make_log: MakeLog) -> None:
    writer, reader = await make_log(), await make_log()
    waiting = asyncio.create_task(reader.read(TOPIC, {}, 9, wait_ms=10_000))
    await writer.append(TOPIC, entries("x"))
    assert [one.value for one in (await waiting).records] == [b"x"]


async def test_an_empty_read_waits_no_longer_than_it_was_told(log: EventLog) -> None:
    batch = await asyncio.wait_for(log.read(TOPIC, {}, 9, wait_ms=30), 5)
    assert (list(batch.records), batch.end) == ([], True)


async def test_a_restart_keeps_everything(make_log: MakeLog) -> None:
    before = await make_log()
    await before.append(TOPIC, entries("a", "b"))
    await before.commit(TOPIC, "group", {0: 2})
    await before.close()
    after = await make_log()
    await after.append(TOPIC, entries("c"))
    assert [one.value for one in await read_all(after)] == [b"a", b"b", b"c"]
    assert await after.committed(TOPIC, "group") == {0: 2}


async def test_positions_are_kept_by_group(log: EventLog) -> None:
    assert await log.committed(TOPIC, "one") == {}
    await log.commit(TOPIC, "one", {0: 5})
    await log.commit(TOPIC, "two", {0: 7})
    await log.commit(TOPIC, "one", {0: 6})
    assert await log.committed(TOPIC, "one") == {0: 6}
    assert await log.committed(TOPIC, "two") == {0: 7}


async def test_lag_counts_what_lies_after_a_position(log: EventLog) -> None:
    assert await log.lag(TOPIC, {}) == 0
    await log.append(TOPIC, entries(*"abc"))
    first = await log.read(TOPIC, {}, 1)
    assert (await log.lag(TOPIC, {}), await log.lag(TOPIC, first.position)) == (3, 2)


async def test_trim_drops_only_what_is_both_old_and_read(log: EventLog, clock: ManualClock) -> None:
    await log.append(TOPIC, entries("old", "old but not read"))
    read = (await log.read(TOPIC, {}, 1)).position
    clock.advance(1_000)
    end_ms = clock.now_ms()
    await log.append(TOPIC, entries("new"))
    everything = (await log.read(TOPIC, {}, 9)).position
    assert await log.trim(TOPIC, end_ms, read) == 1
    assert [one.value for one in await read_all(log)] == [b"old but not read", b"new"]
    assert await log.lag(TOPIC, {}) == 2
    assert await log.trim(TOPIC, end_ms, everything) == 1
    assert [one.value for one in await read_all(log)] == [b"new"]
    assert await log.trim(TOPIC, end_ms, everything) == 0


async def test_a_trimmed_log_never_gives_out_an_offset_again(make_log: MakeLog, clock: ManualClock) -> None:
    log = await make_log()
    await log.append(TOPIC, entries("a", "b"))
    end = (await log.read(TOPIC, {}, 9)).position
    clock.advance(1)
    assert await log.trim(TOPIC, clock.now_ms(), end) == 2
    await log.close()
    log = await make_log()
    await log.append(TOPIC, entries("c"))
    assert [one.value for one in (await log.read(TOPIC, end, 9)).records] == [b"c"]


async def test_a_position_the_log_never_reached_is_refused(log: EventLog) -> None:
    await log.append(TOPIC, entries("a"))
    with pytest.raises(UnavailableError):
        await log.read(TOPIC, {0: 1_000}, 9)


async def test_stamps_never_decrease_even_if_a_clock_steps_back(make_log: MakeLog, clock: ManualClock) -> None:
    one, two = await make_log(), await make_log()
    first = await one.append(TOPIC, entries("a"))
    clock.advance(-5_000)
    second = await two.append(TOPIC, entries("b"))
    assert second >= first
    stamps = [record.appended_ms for record in await read_all(one)]
    assert stamps == [first, second]


async def test_nothing_older_than_a_watermark_comes_later(make_log: MakeLog, clock: ManualClock) -> None:
    writer, reader = await make_log(), await make_log()
    position: dict[int, int] = {}
    watermark_ms = 0
    for step in range(60):
        clock.advance((37, -20, 150, 0)[step % 4])
        if step % 3:
            await writer.append(TOPIC, entries(*"xyz"))
        batch = await reader.read(TOPIC, position, 2)
        assert all(record.appended_ms >= watermark_ms for record in batch.records)
        assert batch.watermark_ms >= watermark_ms or not batch.end
        position, watermark_ms = batch.position, max(watermark_ms, batch.watermark_ms)


async def test_the_watermark_of_a_quiet_topic_follows_the_clock(log: EventLog, clock: ManualClock) -> None:
    await log.append(TOPIC, entries("a"))
    position = (await log.read(TOPIC, {}, 9)).position
    clock.advance(60_000)
    batch = await log.read(TOPIC, position, 9)
    assert clock.now_ms() - 1_000 <= batch.watermark_ms <= clock.now_ms()


async def test_concurrent_appends_are_all_kept_whole_and_once(make_log: MakeLog) -> None:
    logs = [await make_log() for _ in range(3)]
    groups = [[f"{number}-{part}" for part in range(5)] for number in range(60)]
    await asyncio.gather(*(logs[index % 3].append(TOPIC, entries(*group)) for index, group in enumerate(groups)))
    values = [record.value.decode() for record in await read_all(logs[0], limit=17)]
    assert sorted(values) == sorted(name for group in groups for name in group)
    for group in groups:  # an append's entries stay together and in order
        start = values.index(group[0])
        assert values[start : start + 5] == group


async def test_one_unusable_entry_fails_alone(log: EventLog) -> None:
    bad = [Entry("fine", b"1"), Entry("\ud800", b"2")]
    results = await asyncio.gather(
        log.append(TOPIC, entries("a")), log.append(TOPIC, bad), log.append(TOPIC, entries("b")), return_exceptions=True
    )
    assert isinstance(results[1], Exception)
    assert [record.value for record in await read_all(log)] == [b"a", b"b"]


async def test_a_closed_log_refuses(make_log: MakeLog) -> None:
    log = await make_log()
    await log.append(TOPIC, entries("a"))
    await log.close()
    with pytest.raises(UnavailableError):
        await log.append(TOPIC, entries("b"))
    with pytest.raises(UnavailableError):
        await log.read(TOPIC, {}, 1)
