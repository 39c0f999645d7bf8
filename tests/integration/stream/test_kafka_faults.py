"""The event log on Kafka while brokers die, clocks step back, and topics are not what they should be."""

import asyncio
import gc
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from structlog.testing import capture_logs

from deploy.dev.kafka.broker import Cluster
from dsp.kernel.clock import SystemClock
from dsp.kernel.config import Platform
from dsp.kernel.errors import ConfigError, UnavailableError
from dsp.kernel.metrics import LOG_CLOCK_BACK
from dsp.stream.connect import event_log
from dsp.stream.kafka.cluster import CALL_SECONDS
from dsp.stream.kafka.reader import CLOCKS_MS
from dsp.stream.kafka.writer import BATCH_BYTES_MAX
from dsp.stream.port import Assignment, Entry, EventLog, Position, Record

pytestmark = pytest.mark.platform
TOPIC = "notices"
MakeLog = Callable[..., Awaitable[EventLog]]
_Result = TypeVar("_Result")


@pytest.fixture
async def make_log() -> AsyncIterator[MakeLog]:
    opened: list[EventLog] = []

    async def make(url: str, partitions: int = 4, replicas: int = 1) -> EventLog:
        log = event_log(Platform(stream_url=url, stream_partitions=partitions, stream_replicas=replicas), SystemClock())
        await log.open()
        opened.append(log)
        return log

    yield make
    for log in opened:
        await log.close()


async def read_all(log: EventLog) -> list[Record]:
    records: list[Record] = []
    position: Position = {}
    async with asyncio.timeout(90):
        while True:
            batch = await log.read(TOPIC, position, 500)
            records += batch.records
            position = batch.position
            if batch.end:
                return records


async def in_the_end(act: Callable[[], Awaitable[_Result]]) -> _Result:
    """Repeat what fails while brokers are away, as its callers do."""
    async with asyncio.timeout(120):
        while True:
            try:
                return await act()
            except UnavailableError:
                await asyncio.sleep(0.1)


class Appender:
    """Appends for as long as it is told, repeating what failed, and remembers what was acknowledged."""

    def __init__(self, log: EventLog, keys: int = 8) -> None:
        self._log = log
        self._keys = [str(key) for key in range(keys)]
        self.acknowledged: list[str] = []
        self.failures = 0
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        number = 0
        while True:
            entries = [Entry(key, f"{key}-{number}".encode()) for key in self._keys]
            try:
                await self._log.append(TOPIC, entries)
            except UnavailableError:
                self.failures += 1
                await asyncio.sleep(0.05)
                continue
            self.acknowledged += [entry.value.decode() for entry in entries]
            number += 1

    async def more(self, count: int) -> None:
        """Wait until so many more records are acknowledged."""
        goal = len(self.acknowledged) + count
        async with asyncio.timeout(120):
            while len(self.acknowledged) < goal:
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def check(records: list[Record], acknowledged: list[str]) -> None:
    """Nothing acknowledged is missing, and each key's records were first stored in order."""
    assert set(acknowledged) <= {record.value.decode() for record in records}
    for key in {record.key for record in records}:
        firsts = list(dict.fromkeys(record.value.decode() for record in records if record.key == key))
        assert firsts == [f"{key}-{number}" for number in range(len(firsts))]


@pytest.mark.timeout(400)
async def test_a_broker_killed_under_appends_loses_nothing_acknowledged(
    brokers: Callable[[int], Cluster], make_log: MakeLog
) -> None:
    cluster = brokers(1)
    log = await make_log(f"kafka://{cluster.servers}")
    appender = Appender(log)
    for _ in range(2):
        await appender.more(200)
        cluster.end(0, signal.SIGKILL)
        await asyncio.sleep(1)
        cluster.launch(0)
        await asyncio.to_thread(cluster.wait, 0)
    await appender.more(200)
    await appender.stop()
    check(await read_all(log), appender.acknowledged)


@pytest.mark.timeout(400)
async def test_without_brokers_every_call_fails_in_time_and_works_again_after(
    brokers: Callable[[int], Cluster], make_log: MakeLog
) -> None:
    cluster = brokers(1)
    log = await make_log(f"kafka://{cluster.servers}")
    await log.append(TOPIC, [Entry("a", b"1")])
    position = (await log.read(TOPIC, {}, 10)).position
    await log.commit(TOPIC, "another", position)
    async with asyncio.timeout(90):
        while not (await log.assignment(TOPIC, "group")).partitions:
            await asyncio.sleep(0.05)
    cluster.end(0, signal.SIGKILL)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "append": lambda: log.append(TOPIC, [Entry("a", b"2")]),
        "read": lambda: log.read(TOPIC, position, 10),
        "wait": lambda: log.read(TOPIC, position, 10, wait_ms=500, fresh=True),
        "lag": lambda: log.lag(TOPIC, position),
        "trim": lambda: log.trim(TOPIC, 0, position),
        "committed": lambda: log.committed(TOPIC, "another"),
        "commit": lambda: log.commit(TOPIC, "another", position),
    }
    for name, call in calls.items():
        for _ in range(2):  # with a client that had connections, and with a new one
            began = time.monotonic()
            with pytest.raises(UnavailableError):
                await call()
            assert time.monotonic() - began < CALL_SECONDS + 15, name
    cluster.launch(0)
    await asyncio.to_thread(cluster.wait, 0)
    for call in calls.values():
        await in_the_end(call)
    assert {b"1", b"2"} == {record.value for record in await read_all(log)}
    async with asyncio.timeout(90):
        while len((await log.assignment(TOPIC, "group")).partitions) < 4:
            await asyncio.sleep(0.05)


@pytest.mark.timeout(400)
async def test_what_is_given_up_ends_without_a_fault_that_nobody_hears_of(
    brokers: Callable[[int], Cluster], make_log: MakeLog
) -> None:
    """Such a fault would be logged with its traceback, as if something were wrong besides the broker."""
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    cluster = brokers(1)
    log = await make_log(f"kafka://{cluster.servers}")
    await log.append(TOPIC, [Entry("a", b"1")])
    cluster.end(0, signal.SIGKILL)
    for _ in range(2):  # with a client that had connections, and with a new one
        with pytest.raises(UnavailableError):
            await log.append(TOPIC, [Entry("a", b"2")])
    await log.close()
    gc.collect()
    assert faults == []


@pytest.mark.timeout(400)
async def test_of_three_brokers_one_may_die(brokers: Callable[[int], Cluster], make_log: MakeLog) -> None:
    cluster = brokers(3)
    writer = await make_log(f"kafka://{cluster.servers}", 6, 3)
    reader = await make_log(f"kafka://{cluster.servers}", 6, 3)
    appender = Appender(writer, keys=24)
    await appender.more(240)
    before = await reader.read(TOPIC, {}, 10_000)
    cluster.end(0, signal.SIGKILL)  # a leader of partitions, and perhaps the controller's
    await appender.more(480)
    await appender.stop()
    records = list(before.records)
    position = before.position
    end = False
    while not end:
        batch = await in_the_end(lambda at=position: reader.read(TOPIC, at, 10_000))
        records += batch.records
        position, end = batch.position, batch.end
    check(records, appender.acknowledged)


async def test_appends_that_wait_for_one_another_have_as_long_as_any(kafka: str, make_log: MakeLog) -> None:
    log = await make_log(kafka, 1)
    await asyncio.gather(*(log.append(TOPIC, [Entry("a", b"%d" % number)]) for number in range(200)))
    assert [record.value for record in await read_all(log)] == [b"%d" % number for number in range(200)]


async def test_a_clock_set_back_moves_no_stamp_and_no_watermark_back(kafka: str, make_log: MakeLog) -> None:
    """A producer that stamps the records itself stands in for a broker whose clock steps back."""
    log, counter = await make_log(kafka, 1), LOG_CLOCK_BACK.labels(TOPIC)
    first_ms = await log.append(TOPIC, [Entry("a", b"0")])
    servers, prefix = kafka.removeprefix("kafka://").split("/")
    await _stamp_by_producer(servers, f"{prefix}.{TOPIC}")
    producer = AIOKafkaProducer(bootstrap_servers=servers)
    await producer.start()
    async with asyncio.timeout(90):  # brokers take up what was set a moment later
        while await _is_stamped_by_broker(producer, f"{prefix}.{TOPIC}", first_ms):
            await asyncio.sleep(0.05)
    before = await log.read(TOPIC, {}, 10_000)
    counted = counter._value.get()
    for number, ahead_ms in enumerate((60_000, 0, -60_000, 61_000)):
        await producer.send_and_wait(
            f"{prefix}.{TOPIC}", b"%d" % number, b"a", partition=0, timestamp_ms=first_ms + ahead_ms
        )
    await producer.stop()
    stamps: list[int] = []
    batch = before
    with capture_logs() as logs:
        while len(stamps) < 4:
            after = await log.read(TOPIC, batch.position, 10)
            stamps += [record.appended_ms - first_ms for record in after.records]
            assert after.watermark_ms >= batch.watermark_ms
            batch = after
    assert stamps == [60_000, 60_000, 60_000, 61_000]
    assert batch.watermark_ms == first_ms + 61_000 - CLOCKS_MS
    assert [line["by_ms"] for line in logs if "clock" in line["event"]] == [60_000, 120_000]
    assert counter._value.get() - counted == 2


async def _stamp_by_producer(servers: str, topic: str) -> None:
    from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    configs = {"message.timestamp.type": "CreateTime"}
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs)])
    await admin.close()


async def _is_stamped_by_broker(producer: AIOKafkaProducer, topic: str, at_ms: int) -> bool:
    """Append a record, and tell whether its stamp is the broker's and not the one given."""
    return bool((await producer.send_and_wait(topic, b"", b"a", partition=0, timestamp_ms=at_ms)).timestamp != at_ms)


async def test_a_topic_of_another_kind_is_refused(kafka: str, make_log: MakeLog) -> None:
    servers, prefix = kafka.removeprefix("kafka://").split("/")
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    await admin.create_topics([NewTopic(f"{prefix}.{TOPIC}", 3, 1)])
    await admin.close()
    log = await make_log(kafka, 4)
    with pytest.raises(UnavailableError, match=r"timestamp.*CreateTime.*3 partitions") as refused:
        await log.append(TOPIC, [Entry("a", b"1")])
    assert "stream_partitions = 4" in str(refused.value)


async def test_partitions_that_somebody_adds_are_nobodys_share(kafka: str, make_log: MakeLog) -> None:
    log = await make_log(kafka, 2)
    await log.append(TOPIC, [Entry("a", b"1")])
    await _add_partition(kafka, 3)
    async with asyncio.timeout(90):
        while not (found := (await log.assignment(TOPIC, "group"))).partitions:
            await asyncio.sleep(0.05)
    assert found == Assignment(frozenset({0, 1}), 2)


async def test_a_topic_that_was_read_to_its_end_may_get_more_partitions(kafka: str, make_log: MakeLog) -> None:
    before = await make_log(kafka, 2)
    entries = [Entry(f"key {number}", b"%d" % number) for number in range(20)]
    await before.append(TOPIC, entries[:10])
    read = await read_all(before)
    position = {one.partition: one.offset + 1 for one in read}
    await _add_partition(kafka, 3)
    after = await make_log(kafka, 3)
    await after.append(TOPIC, entries[10:])
    batch = await after.read(TOPIC, position, 100, fresh=True)
    assert sorted(int(one.value) for one in (*read, *batch.records)) == list(range(20))
    assert {one.partition for one in batch.records} == {0, 1, 2}
    assert batch.watermark_ms > 0
    async with asyncio.timeout(90):
        while not (share := await after.assignment(TOPIC, "group")).partitions:
            await asyncio.sleep(0.05)
    assert share == Assignment(frozenset({0, 1, 2}), 3)


async def _add_partition(url: str, total: int) -> None:
    servers, prefix = url.removeprefix("kafka://").split("/")
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    await admin.create_partitions({f"{prefix}.{TOPIC}": NewPartitions(total)})
    await admin.close()


async def test_a_record_that_is_too_large_fails_alone_and_at_once(kafka: str, make_log: MakeLog) -> None:
    log = await make_log(kafka)
    with pytest.raises(ValueError, match="too large"):
        await log.append(TOPIC, [Entry("a", b"fine"), Entry("b", bytes(BATCH_BYTES_MAX))])
    large = bytes(range(250)) * 3_900
    await log.append(TOPIC, [Entry("a", large), *(Entry("a", b"%d" % number + large[:300_000]) for number in range(9))])
    values = [record.value for record in await read_all(log)]
    assert values == [large, *(b"%d" % number + large[:300_000] for number in range(9))]


async def test_only_members_commit_for_a_group_that_has_some(kafka: str, make_log: MakeLog) -> None:
    member, stranger = await make_log(kafka), await make_log(kafka)
    async with asyncio.timeout(90):
        while len((await member.assignment(TOPIC, "group")).partitions) < 4:
            await asyncio.sleep(0.05)
    await member.commit(TOPIC, "group", {0: 3, 1: 4})
    with pytest.raises(UnavailableError):
        await stranger.commit(TOPIC, "group", {0: 1})
    assert await stranger.committed(TOPIC, "group") == {0: 3, 1: 4}


async def test_what_was_trimmed_under_a_reader_is_passed_over(kafka: str, make_log: MakeLog) -> None:
    log, other = await make_log(kafka, 1), await make_log(kafka, 1)
    await log.append(TOPIC, [Entry("a", b"%d" % number) for number in range(10)])
    position = (await log.read(TOPIC, {}, 2)).position
    await asyncio.sleep(0.05)
    assert await other.trim(TOPIC, SystemClock().now_ms() + 1_000, {0: 6}) == 6
    fresh = await make_log(kafka, 1)
    assert [record.offset for record in (await fresh.read(TOPIC, position, 20)).records] == [6, 7, 8, 9]


@pytest.mark.parametrize("url", ["kafka://", "kafka://host", "kafka://host:port", "http://host:1", "kafka://a:1,b"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="stream_url"):
        event_log(Platform(stream_url=url), SystemClock())
