"""What every EventLog must do. Implementations are added to the fixture's parameters."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from dsp.kernel.clock import Clock, ManualClock, SystemClock
from dsp.kernel.config import Platform
from dsp.kernel.errors import UnavailableError
from dsp.kernel.metrics import LOG_GAPS
from dsp.stream.connect import event_log
from dsp.stream.local import LocalEventLog
from dsp.stream.port import Assignment, Entry, EventLog, Record

TOPIC = "notices"
MakeLog = Callable[[], Awaitable[EventLog]]
LetPass = Callable[[int], Awaitable[None]]


@pytest.fixture(params=["local", pytest.param("kafka", marks=pytest.mark.platform)])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def clock(kind: str) -> Clock:
    """The log's clock; the brokers' is this machine's."""
    return ManualClock() if kind == "local" else SystemClock()


@pytest.fixture
def let_pass(clock: Clock) -> LetPass:
    """Let so many milliseconds pass. A clock that can be set back is set back by negative ones."""

    async def let(ms: int) -> None:
        if isinstance(clock, ManualClock):
            clock.advance(ms)
        else:
            await asyncio.sleep(max(0, ms) / 1_000)

    return let


@pytest.fixture
async def make_log(request: pytest.FixtureRequest, kind: str, tmp_path: Path, clock: Clock) -> AsyncIterator[MakeLog]:
    """A maker of logs that share their records, as several processes do."""
    opened: list[EventLog] = []
    url = request.getfixturevalue("kafka") if kind == "kafka" else ""

    async def make() -> EventLog:
        log = {
            "local": lambda: LocalEventLog(tmp_path / "log", clock, "NORMAL"),
            "kafka": lambda: event_log(Platform(stream_url=url, stream_partitions=4), clock),
        }[kind]()
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
    await log.append(TOPIC, [Entry("a", b"1"), Entry("a", b"2")])
    await log.append(TOPIC, [Entry("a", b"")])
    assert [(one.key, one.value) for one in await read_all(log)] == [("a", b"1"), ("a", b"2"), ("a", b"")]


async def test_equal_keys_keep_their_order_and_their_partition(log: EventLog) -> None:
    keys = ["", *map(str, range(20))]
    for number in range(5):
        await log.append(TOPIC, [Entry(key, b"%d" % number) for key in keys])
    records = await read_all(log, limit=13)
    assert len(records) == 5 * len(keys)
    for key in keys:
        mine = [one for one in records if one.key == key]
        assert [one.value for one in mine] == [b"%d" % number for number in range(5)]
        assert len({one.partition for one in mine}) == 1
        assert [one.offset for one in mine] == sorted({one.offset for one in mine})


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


async def test_a_log_is_the_same_whoever_opens_it(make_log: MakeLog) -> None:
    one, two = await make_log(), await make_log()
    assert await one.identity(TOPIC) == await two.identity(TOPIC) != ""


@pytest.mark.platform
async def test_another_prefix_is_another_log_and_another_address_is_not(kafka: str) -> None:
    found = []
    for url in (kafka, f"{kafka}-other", kafka.replace("127.0.0.1", "localhost")):
        log = event_log(Platform(stream_url=url, stream_partitions=4), SystemClock())
        await log.open()
        found.append(await log.identity(TOPIC))
        await log.close()
    assert found[0] != found[1]
    assert found[0] == found[2]


async def test_topics_do_not_mix(log: EventLog) -> None:
    await log.append("one", entries("1"))
    assert (await log.read("two", {}, 9)).records == []


async def test_another_process_sees_what_was_appended(make_log: MakeLog) -> None:
    writer, reader = await make_log(), await make_log()
    waiting = asyncio.create_task(reader.read(TOPIC, {}, 9, wait_ms=60_000))
    await writer.append(TOPIC, entries("x"))
    assert [one.value for one in (await waiting).records] == [b"x"]


async def test_an_empty_read_waits_no_longer_than_it_was_told(log: EventLog) -> None:
    batch = await asyncio.wait_for(log.read(TOPIC, {}, 9, wait_ms=30), 30)
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


async def test_the_tail_is_what_came_last(log: EventLog, clock: Clock, let_pass: LetPass) -> None:
    assert await log.lag(TOPIC, await log.tail(TOPIC, 8)) == 0
    for begin in (0, 40):
        await log.append(TOPIC, [Entry(str(number), str(number).encode()) for number in range(begin, begin + 40)])
    newest = await log.tail(TOPIC, 8)
    batch = await log.read(TOPIC, newest, 80, 1_000)
    found = [int(one.value) for one in batch.records]
    assert 0 < len(found) <= 8
    assert min(found) >= 40  # as many of each partition
    everything = await log.read(TOPIC, await log.tail(TOPIC, 10_000), 80, 1_000)
    assert everything.records
    assert min(int(one.value) for one in everything.records) < 40
    await let_pass(50)
    assert await log.trim(TOPIC, clock.now_ms(), batch.position) > 0
    assert len((await log.read(TOPIC, await log.tail(TOPIC, 10_000), 80)).records) <= 80


async def test_trim_drops_only_what_is_both_old_and_read(log: EventLog, clock: Clock, let_pass: LetPass) -> None:
    await log.append(TOPIC, entries("old", "old but not read"))
    read = (await log.read(TOPIC, {}, 1)).position
    await let_pass(1_000)
    end_ms = clock.now_ms()
    await log.append(TOPIC, entries("new"))
    everything = (await log.read(TOPIC, {}, 9)).position
    assert await log.trim(TOPIC, end_ms, read) == 1
    assert [one.value for one in await read_all(log)] == [b"old but not read", b"new"]
    assert await log.lag(TOPIC, {}) == 2
    assert await log.trim(TOPIC, end_ms, everything) == 1
    assert [one.value for one in await read_all(log)] == [b"new"]
    assert await log.trim(TOPIC, end_ms, everything) == 0
    assert await log.trim(TOPIC, end_ms) == 0


async def test_trim_by_age_alone(log: EventLog, clock: Clock, let_pass: LetPass) -> None:
    await log.append(TOPIC, [Entry(key, b"old") for key in "abcdef"])
    await let_pass(50)
    end_ms = clock.now_ms()
    await let_pass(50)
    await log.append(TOPIC, [Entry(key, b"new") for key in "abc"])
    assert await log.trim(TOPIC, end_ms) == 6
    assert [one.value for one in await read_all(log)] == [b"new"] * 3
    await let_pass(50)
    assert await log.trim(TOPIC, clock.now_ms() + 1_000) == 3
    assert await read_all(log) == []


async def test_a_reader_whose_records_are_gone_says_so_and_goes_on(
    log: EventLog, clock: Clock, let_pass: LetPass
) -> None:
    gaps = LOG_GAPS.labels(TOPIC)
    before = gaps._value.get()
    await log.append(TOPIC, entries(*"abcd"))
    read = await log.read(TOPIC, {}, 1)
    await let_pass(10)
    everything = (await log.read(TOPIC, read.position, 10)).position
    assert gaps._value.get() == before
    await log.trim(TOPIC, clock.now_ms() + 1_000)  # as a broker does that drops by age
    await log.append(TOPIC, entries("e"))
    batch = await log.read(TOPIC, read.position, 10)
    assert [one.value for one in batch.records] == [b"e"]
    assert gaps._value.get() == before + 1
    for position in ({}, everything, batch.position):  # from the beginning, or from where nothing is missing
        await log.read(TOPIC, position, 10)
    assert gaps._value.get() == before + 1


async def test_a_trimmed_log_never_gives_out_an_offset_again(
    make_log: MakeLog, clock: Clock, let_pass: LetPass
) -> None:
    log = await make_log()
    await log.append(TOPIC, entries("a", "b"))
    end = (await log.read(TOPIC, {}, 9)).position
    await let_pass(50)
    assert await log.trim(TOPIC, clock.now_ms(), end) == 2
    await log.close()
    log = await make_log()
    await log.append(TOPIC, entries("c"))
    assert [one.value for one in (await log.read(TOPIC, end, 9)).records] == [b"c"]


async def test_a_position_the_log_never_reached_is_refused(log: EventLog) -> None:
    await log.append(TOPIC, entries("a"))
    with pytest.raises(UnavailableError):
        await log.read(TOPIC, {0: 1 << 60}, 9)


async def test_stamps_never_decrease_even_if_a_clock_steps_back(make_log: MakeLog, let_pass: LetPass) -> None:
    one, two = await make_log(), await make_log()
    first = await one.append(TOPIC, entries("a"))
    await let_pass(-5_000)
    second = await two.append(TOPIC, entries("b"))
    assert second >= first
    stamps = [record.appended_ms for record in await read_all(one)]
    assert stamps == [first, second]


async def test_nothing_older_than_a_watermark_comes_later(make_log: MakeLog, let_pass: LetPass) -> None:
    writer, reader = await make_log(), await make_log()
    position: dict[int, int] = {}
    watermarks: dict[int, int] = {}
    values: list[bytes] = []
    for step in range(60):
        await let_pass((37, -20, 150, 0)[step % 4])
        if step % 3:
            await writer.append(TOPIC, [Entry(key, b"%d" % step) for key in "uvwxyz"[: step % 5]])
        batch = await reader.read(TOPIC, position, 2, fresh=True)
        assert all(record.appended_ms >= watermarks.get(record.partition, 0) for record in batch.records)
        assert all(known >= watermarks.get(partition, 0) for partition, known in batch.watermarks.items())
        position, watermarks = batch.position, dict(batch.watermarks)
        values += [record.value for record in batch.records]
    assert len(values) >= 40
    assert min(watermarks.values()) > 0


async def test_the_watermark_of_a_quiet_topic_follows_the_clock(log: EventLog, clock: Clock, let_pass: LetPass) -> None:
    await log.append(TOPIC, entries("a"))
    position = (await log.read(TOPIC, {}, 9)).position
    await let_pass(2_000)
    stale = await log.read(TOPIC, position, 9)
    assert stale.watermark_ms <= clock.now_ms() - 1_500
    asked_ms = clock.now_ms()
    batch = await log.read(TOPIC, stale.position, 9, fresh=True)
    assert asked_ms - 1_500 <= batch.watermark_ms <= clock.now_ms()
    assert list(batch.records) == []


async def test_a_share_is_alone_or_with_others_and_ends_with_its_log(make_log: MakeLog) -> None:
    one, two = await make_log(), await make_log()
    every = (await _share(one, lambda share, total: len(share) == total)).partitions
    share = await two.assignment(TOPIC, "group")
    assert share.total == len(every)
    # Of several partitions each gets some; of one the other gets none.
    for _ in range(1_200):
        mine, other = [(await log.assignment(TOPIC, "group")).partitions for log in (one, two)]
        if mine and (other or share.total == 1) and len(mine) + len(other) == share.total:
            break
        await asyncio.sleep(0.05)
    assert mine | other == every
    assert not mine & other
    assert (await _share(two, lambda share, total: len(share) == total, "another group")).partitions == every
    await one.close()
    assert (await _share(two, lambda share, total: len(share) == total)).partitions == every


async def _share(log: EventLog, wanted: Callable[[frozenset[int], int], bool], group: str = "group") -> Assignment:
    async with asyncio.timeout(60):
        while True:
            share = await log.assignment(TOPIC, group)
            if wanted(*share):
                return share
            await asyncio.sleep(0.05)


async def test_a_share_is_read_alone(log: EventLog) -> None:
    await log.append(TOPIC, [Entry(str(key), b"") for key in range(30)])
    everything = await read_all(log)
    for partition in {record.partition for record in everything}:
        batch = await log.read(TOPIC, {}, 100, partitions={partition})
        assert list(batch.records) == [one for one in everything if one.partition == partition]
        assert set(batch.position) == set(batch.watermarks) == {partition}
        assert batch.end
    nothing = await asyncio.wait_for(log.read(TOPIC, {}, 100, wait_ms=10, partitions=()), 30)
    assert (list(nothing.records), nothing.position, nothing.end, nothing.watermark_ms) == ([], {}, True, 0)


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
