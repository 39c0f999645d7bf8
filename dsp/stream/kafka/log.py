"""KafkaEventLog: dsp.stream.port.EventLog on Apache Kafka.

Records are spread over a topic's partitions by the CRC-32 of their keys. Nothing is transactional: an append over
several partitions that fails may have been stored in part, and is stored again when it is repeated. Consumers bear
that, as exchanges send notices twice in any case.

Clients are made when they are first needed and given up after any fault, so that no state of theirs outlives it:
every call either succeeds or raises UnavailableError within a bounded time, and succeeds again once the brokers do.
"""

import asyncio
import logging
import zlib
from collections.abc import Collection, Sequence

from dsp.kernel.errors import UnavailableError
from dsp.stream.kafka import topics
from dsp.stream.kafka.cluster import Closer, Cluster
from dsp.stream.kafka.member import Member
from dsp.stream.kafka.reader import MARKER, Reader
from dsp.stream.kafka.writer import Line, Writer
from dsp.stream.port import Assignment, Batch, Entry, Position


class KafkaEventLog:
    """Implements dsp.stream.port.EventLog on a Kafka cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._closer = Closer()
        self._is_open = False
        self._known: dict[str, str] = {}  # topics, with the cluster they were found in
        self._ensuring = asyncio.Lock()
        self._writers: dict[str, Writer] = {}
        self._readers: dict[str, Reader] = {}
        self._members: dict[tuple[str, str], Member] = {}

    async def open(self) -> None:
        """Make ready; the cluster is connected to, and topics are created, when they are first used."""
        # Its faults reach us as exceptions, and are reported once, where they matter.
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
        self._is_open = True

    async def close(self) -> None:
        """Release connections and leave all groups. Appends that still wait fail, as far as their callers know."""
        self._is_open = False
        clients: list[Writer | Reader | Member] = [
            *self._writers.values(),
            *self._readers.values(),
            *self._members.values(),
        ]
        for client in clients:
            client.close()
        self._writers, self._readers, self._members = {}, {}, {}
        await self._closer.wait()

    async def identity(self, topic: str) -> str:
        """Return the cluster's own id, and the name that the topic has there."""
        await self._ensure(topic)
        return f"kafka:{self._known[topic]}/{self._cluster.topic(topic)}"

    async def append(self, topic: str, entries: Sequence[Entry]) -> int:
        """Append the entries; all replicas in sync have them when this returns. Return the latest `appended_ms`."""
        lines: dict[int, list[Line]] = {}
        for key, value in entries:
            line = Line(key.encode(), value)
            lines.setdefault(zlib.crc32(line.key) % self._cluster.partitions, []).append(line)
        await self._ensure(topic)
        return await self._writer(topic).append(lines)

    async def read(
        self,
        topic: str,
        position: Position,
        limit: int,
        wait_ms: int = 0,
        partitions: Collection[int] | None = None,
        fresh: bool = False,
    ) -> Batch:
        """Read up to `limit` records after `position`, waiting up to `wait_ms` for the first."""
        await self._ensure(topic)
        wanted = range(self._cluster.partitions) if partitions is None else partitions
        return await self._reader(topic).read(position, limit, wait_ms, wanted, fresh)

    async def assignment(self, topic: str, group: str) -> Assignment:
        """Return this process's share of a topic for a group, which the group's coordinator among the brokers gives."""
        await self._ensure(topic)
        return Assignment(await self._member(topic, group).share(), self._cluster.partitions)

    async def committed(self, topic: str, group: str) -> Position:
        """Return a group's committed position; empty when it has none."""
        await self._ensure(topic)
        return await self._member(topic, group).committed()

    async def commit(self, topic: str, group: str, position: Position) -> None:
        """Store a group's position. Of a group that has members only a member can, for what is its share."""
        await self._ensure(topic)
        await self._member(topic, group).commit(position)

    async def lag(self, topic: str, position: Position) -> int:
        """Return how many records lie after `position`, markers included."""
        await self._ensure(topic)
        oldest, ends = await self._reader(topic).bounds()
        return sum(max(0, ends[one] - max(oldest[one], position.get(one.partition, 0))) for one in ends)

    async def tail(self, topic: str, count: int) -> Position:
        """Return the position after which the newest `count` records lie, markers included, or all there are."""
        await self._ensure(topic)
        oldest, ends = await self._reader(topic).bounds()
        return {one.partition: max(oldest[one], ends[one] - count // len(ends)) for one in ends}

    async def trim(self, topic: str, before_ms: int, position: Position | None = None) -> int:
        """Drop records both appended before `before_ms` and before `position`, if given; return how many."""
        await self._ensure(topic)
        reader = self._reader(topic)
        young = await reader.first_since(before_ms)
        oldest, ends = await reader.bounds()
        goals = {}
        for place, end in ends.items():
            first_young = young[place]
            read = end if position is None else min(end, position.get(place.partition, 0))
            goal = read if first_young is None else min(read, first_young)
            if goal > oldest[place]:
                goals[place] = goal
        if goals:
            await topics.delete_before(self._cluster, goals)
        return sum(goal - oldest[place] for place, goal in goals.items())

    async def _ensure(self, topic: str) -> None:
        if not self._is_open:
            raise UnavailableError("the event log is not open")
        if topic in self._known:
            return
        if not topic.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"not a topic's name: {topic!r}")
        async with self._ensuring:
            if topic not in self._known:
                self._known[topic] = await topics.ensure(self._cluster, topic)

    def _writer(self, topic: str) -> Writer:
        if topic not in self._writers:
            self._writers[topic] = Writer(self._cluster, topic, self._closer)
        return self._writers[topic]

    def _reader(self, topic: str) -> Reader:
        if topic not in self._readers:

            async def mark(partitions: Collection[int]) -> None:
                lines = {partition: [Line(b"", b"", (MARKER,))] for partition in partitions}
                await self._writer(topic).append(lines)

            self._readers[topic] = Reader(self._cluster, topic, self._closer, mark)
        return self._readers[topic]

    def _member(self, topic: str, group: str) -> Member:
        if (topic, group) not in self._members:
            self._members[topic, group] = Member(self._cluster, topic, group, self._closer)
        return self._members[topic, group]
