"""Reads one topic of a Kafka cluster by positions that the caller keeps.

Stamps are those of the broker that leads a partition, and a marker that a reader appends when a partition has been
quiet shows what time it is there, so one clock orders a partition's records, markers and watermarks. Another broker may
lead from now on, or a broker's clock be set back: a reader raises stamps so that they never decrease, and a watermark
trails the latest stamp by CLOCKS_MS. As long as the brokers' clocks agree that well, no record is appended behind a
watermark. Worse is reported as an error; see docs/reliability.md for what it then costs.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from dsp.kernel import logging, metrics
from dsp.kernel.clock import MS_PER_SECOND
from dsp.kernel.errors import UnavailableError
from dsp.stream.kafka.cluster import CALL_SECONDS, Closer, Cluster, reaching
from dsp.stream.port import Batch, Position, Record

#: How well the brokers' clocks are taken to agree, and how far watermarks therefore trail the latest stamp.
CLOCKS_MS = 500
#: A partition that was quiet for so long gets a marker, where fresh watermarks are asked for.
QUIET_SECONDS = 0.8
#: The header by which a record is known for a marker: it belongs to the log, and no reader is shown it.
MARKER = ("dsp-marker", b"")
#: How long a broker holds a request for records that are not there yet. Nothing else that is sent on the connection is
#: answered meanwhile, so offsets are asked for on another.
_FETCH_MS = 250


class Reader:
    """One topic's consumer, without a group: where it reads is what the caller says. One call at a time."""

    def __init__(
        self, cluster: Cluster, topic: str, closer: Closer, mark: Callable[[Collection[int]], Awaitable[object]]
    ) -> None:
        self._cluster = cluster
        self._topic = cluster.topic(topic)
        self._places = cluster.places(topic)
        self._closer = closer
        self._mark = mark
        self._clock_back = metrics.LOG_CLOCK_BACK.labels(topic)  # at nought from the start
        self._gaps = metrics.LOG_GAPS.labels(topic)
        self._turn = asyncio.Lock()
        self._consumer: AIOKafkaConsumer | None = None
        self._asker: AIOKafkaConsumer | None = None
        self._forget()

    def _forget(self) -> None:
        self._next: dict[TopicPartition, int] = {}  # where the consumer is
        self._latest_ms: dict[TopicPartition, int] = {}  # of the stamps read since it was put there
        self._heard_at: dict[TopicPartition, float] = {}  # when that last grew

    def close(self) -> None:
        """Give the consumer up; the next call starts another."""
        clients = (self._consumer, self._asker)
        self._consumer = self._asker = None
        self._forget()
        for client in clients:
            if client is not None:
                self._closer.close(client.stop)

    async def read(
        self, position: Position, limit: int, wait_ms: int, partitions: Collection[int], fresh: bool
    ) -> Batch:
        """See dsp.stream.port.EventLog.read."""
        async with self._turn:
            wait_seconds = wait_ms / MS_PER_SECOND
            places = [TopicPartition(self._topic, number) for number in sorted(partitions)]
            if not places:
                await asyncio.sleep(wait_seconds)
                return Batch([], {}, True, {})
            async with reaching(f"read {self._topic}", self.close, CALL_SECONDS + wait_seconds):
                consumer = await self._placed(places, position)
                if fresh:
                    await self._mark_quiet(consumer, places)
                return await self._collect(consumer, places, limit, wait_seconds)

    async def bounds(self) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        """Return the oldest offset and the end of every partition."""
        async with self._turn, reaching(f"ask for the ends of {self._topic}", self.close):
            asker = await self._asking()
            return await asker.beginning_offsets(self._places), await asker.end_offsets(self._places)

    async def first_since(self, at_ms: int) -> Mapping[TopicPartition, int | None]:
        """Return for every partition the offset of the first record stamped `at_ms` or later, None where none is."""
        async with self._turn, reaching(f"look for a time in {self._topic}", self.close):
            asker = await self._asking()
            found = await asker.offsets_for_times(dict.fromkeys(self._places, at_ms))
            return {place: None if found.get(place) is None else found[place].offset for place in self._places}

    async def _started(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            self._consumer = AIOKafkaConsumer(
                **self._cluster.client,
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                fetch_max_wait_ms=_FETCH_MS,
            )
            await self._consumer.start()
        return self._consumer

    async def _asking(self) -> AIOKafkaConsumer:
        if self._asker is None:
            self._asker = AIOKafkaConsumer(**self._cluster.client, group_id=None)
            await self._asker.start()
        return self._asker

    async def _placed(self, places: list[TopicPartition], position: Position) -> AIOKafkaConsumer:
        """Return the consumer once it stands at `position` in these partitions and reads no others."""
        consumer = await self._started()
        if consumer.assignment() != set(places):
            self._forget()
        moved = [place for place in places if self._next.get(place, -1) != position.get(place.partition)]
        if not moved:
            return consumer
        asker = await self._asking()
        oldest, ends = await asker.beginning_offsets(moved), await asker.end_offsets(moved)
        for place in moved:
            wanted = position.get(place.partition, oldest[place])
            if wanted > ends[place]:
                raise UnavailableError(
                    f"position {wanted} is beyond the end of {place} ({ends[place]}): it is not the log it was"
                )
            if 0 < wanted < oldest[place]:
                self._gaps.inc()
                logging.get(__name__).error("records are gone unread", place=str(place), records=oldest[place] - wanted)
            self._next[place] = max(wanted, oldest[place])
            self._latest_ms.pop(place, None)
            self._heard_at.pop(place, None)
        if consumer.assignment() != set(places):
            consumer.assign(places)
        for place in moved:
            consumer.seek(place, self._next[place])
        return consumer

    async def _mark_quiet(self, consumer: AIOKafkaConsumer, places: list[TopicPartition]) -> None:
        """Append a marker to every partition that has been read to its end and whose latest stamp is old."""
        now = asyncio.get_running_loop().time()
        quiet = [
            place.partition
            for place in places
            if now - self._heard_at.get(place, 0.0) > QUIET_SECONDS
            and (consumer.highwater(place) or 0) <= self._next[place]
        ]
        if quiet:
            await self._mark(quiet)

    async def _collect(
        self, consumer: AIOKafkaConsumer, places: list[TopicPartition], limit: int, wait_seconds: float
    ) -> Batch:
        asker, loop = await self._asking(), asyncio.get_running_loop()
        wait_until = loop.time() + wait_seconds
        records = self._taken(await consumer.getmany(timeout_ms=0, max_records=limit))
        ends: dict[TopicPartition, int] = {}
        while len(records) < limit:
            ends = await asker.end_offsets(places)
            self._check(ends)
            behind = any(self._next[place] < ends[place] for place in places)
            if records or (not behind and loop.time() >= wait_until):
                break
            # What is known to be there comes; `reaching` bounds how long that may take.
            left = CALL_SECONDS if behind else wait_until - loop.time()
            found = await consumer.getmany(timeout_ms=int(left * MS_PER_SECOND), max_records=limit)
            records = self._taken(found)
            for place in places:  # offsets that hold no record of ours are passed over without being shown
                self._next[place] = await consumer.position(place)
        return Batch(
            records,
            {place.partition: self._next[place] for place in places},
            bool(ends) and all(self._next[place] >= ends[place] for place in places),
            {place.partition: max(0, self._latest_ms.get(place, 0) - CLOCKS_MS) for place in places},
        )

    def _check(self, ends: Mapping[TopicPartition, int]) -> None:
        for place, end in ends.items():
            if self._next[place] > end:
                raise UnavailableError(f"{place} ends at {end} and was read to {self._next[place]}: records were lost")

    def _taken(self, found: Mapping[TopicPartition, list[Any]]) -> list[Record]:
        now = asyncio.get_running_loop().time()
        records = []
        for place, lines in found.items():
            for line in lines:
                if line.offset < self._next[place]:
                    raise UnavailableError(f"{place} went back from {self._next[place]} to {line.offset}")
                stamp = self._stamped(place, int(line.timestamp))
                self._next[place] = line.offset + 1
                if MARKER not in line.headers:
                    key = "" if line.key is None else line.key.decode("utf-8", "replace")
                    records.append(Record(place.partition, line.offset, stamp, key, line.value or b""))
            self._heard_at[place] = now
        return records

    def _stamped(self, place: TopicPartition, stamp: int) -> int:
        latest = self._latest_ms.get(place, stamp)
        if stamp < latest - CLOCKS_MS:
            self._clock_back.inc()
            logging.get(__name__).error("the clock of a broker was set back", place=str(place), by_ms=latest - stamp)
        self._latest_ms[place] = max(stamp, latest)
        return self._latest_ms[place]
