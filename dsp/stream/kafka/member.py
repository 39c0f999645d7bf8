"""A group's member: which partitions of a topic are this process's, and the position that the group has committed."""

import asyncio
from collections.abc import Iterable

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.structs import OffsetAndMetadata

from dsp.stream.kafka.cluster import Closer, Cluster, reaching
from dsp.stream.port import Position

#: A member that is silent for so long is taken for dead, and its share goes to the others. No broker allows less
#: unless it is told to.
SESSION_MS = 6_000
_HEARTBEAT_MS = 1_500
#: A member that lives, but has not asked for its share for so long, hangs and is taken for dead as well.
_HANG_MS = 60_000


class Member:
    """Belongs to one group of one topic. It reads nothing: records are read by position (dsp.stream.kafka.reader)."""

    def __init__(self, cluster: Cluster, topic: str, group: str, closer: Closer) -> None:
        self._cluster = cluster
        self._topic = topic
        self._group = cluster.group(topic, group)
        self._closer = closer
        self._consumer: AIOKafkaConsumer | None = None
        self._joined = False
        self._turn = asyncio.Lock()

    async def share(self) -> frozenset[int]:
        """Return the partitions that are ours now; the first call asks to join, and has none yet."""
        async with self._turn, reaching(f"join {self._group}", self.close):
            if not self._joined:
                self.close()
            consumer = await self._started(join=True)
            await consumer.getmany(timeout_ms=0)  # tells that we do not hang, and raises what went wrong
            # Partitions that somebody has added hold nothing of ours.
            return frozenset(
                place.partition for place in consumer.assignment() & set(self._cluster.places(self._topic))
            )

    async def committed(self) -> Position:
        """Return the group's position."""
        async with self._turn, reaching(f"ask {self._group} for its position", self.close):
            consumer = await self._started()
            places = self._cluster.places(self._topic)
            found = await asyncio.gather(*(consumer.committed(place) for place in places))
            return {place.partition: offset for place, offset in zip(places, found, strict=True) if offset is not None}

    async def commit(self, position: Position) -> None:
        """Store the group's position; refused by the broker where others have joined and we have not, or no more."""
        if not position:
            return
        async with self._turn, reaching(f"commit the position of {self._group}", self.close):
            consumer = await self._started()
            topic = self._cluster.topic(self._topic)
            await consumer.commit(
                {TopicPartition(topic, number): OffsetAndMetadata(offset, "") for number, offset in position.items()}
            )

    async def _started(self, join: bool = False) -> AIOKafkaConsumer:
        if self._consumer is None:
            self._consumer = AIOKafkaConsumer(
                **self._cluster.client,
                group_id=self._group,
                enable_auto_commit=False,
                session_timeout_ms=SESSION_MS,
                heartbeat_interval_ms=_HEARTBEAT_MS,
                rebalance_timeout_ms=SESSION_MS,
                max_poll_interval_ms=_HANG_MS,
            )
            await self._consumer.start()
            if join:
                self._consumer.subscribe([self._cluster.topic(self._topic)], listener=_Pause(self._consumer))
                self._joined = True
            else:
                places = self._cluster.places(self._topic)
                self._consumer.assign(places)
                self._consumer.pause(*places)
        return self._consumer

    def close(self) -> None:
        """Leave the group; the next call starts anew."""
        consumer, self._consumer = self._consumer, None
        self._joined = False
        if consumer is not None:
            self._closer.close(consumer.stop)


class _Pause(ConsumerRebalanceListener):  # type: ignore[misc]
    """Keeps the member from fetching records that nobody asks it for."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Do nothing: whoever has a share learns by asking again."""

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Fetch nothing."""
        self._consumer.pause(*assigned)
