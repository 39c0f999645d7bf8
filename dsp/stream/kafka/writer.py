"""Appends to one topic of a Kafka cluster, acknowledged by all replicas in sync, in order within each partition."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from dsp.kernel.errors import UnavailableError
from dsp.stream.kafka.cluster import Closer, Cluster, reaching

#: Of one record batch before compression; brokers take 1 MiB unless they are told otherwise.
BATCH_BYTES_MAX = 1_000_000
#: What a record takes beside key and value, at most.
_RECORD_BYTES = 100
#: Records that wait for their acknowledgement before more are refused.
PENDING_MAX = 100_000


class Line(NamedTuple):
    """One record as Kafka takes it."""

    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


class Writer:
    """One topic's producer. It is idempotent: a batch that it sends again, for want of an answer, is stored once.

    When an append does not succeed in time, the producer and all that waits in it are given up and the next append
    starts another: what a caller was told has failed must not pile up, nor be stored long after.
    """

    def __init__(self, cluster: Cluster, topic: str, closer: Closer) -> None:
        self._cluster = cluster
        self._topic = cluster.topic(topic)
        self._closer = closer
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()
        #: By partition. Those that wait in the producer for the same one use up their time faster than it goes by.
        self._turns: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._pending = 0
        self._latest_ms: dict[int, int] = {}

    async def append(self, lines: Mapping[int, Sequence[Line]]) -> int:
        """Append lines by partition; return the latest stamp, which never decreases within a partition.

        Raises:
            ValueError: a record is larger than a batch may be; none was appended.
            UnavailableError: the outcome is unknown.
        """
        count = sum(map(len, lines.values()))
        for group in lines.values():
            for line in group:
                if len(line.key) + len(line.value) + _RECORD_BYTES > BATCH_BYTES_MAX:
                    raise ValueError(f"a record of {len(line.value)} bytes is too large for the event log")
        if self._pending + count > PENDING_MAX:
            raise UnavailableError("too many records wait for the event log")
        self._pending += count
        try:
            async with reaching(f"append to {self._topic}", self.close):
                producer = await self._started()
                sent = await asyncio.gather(
                    *(self._send(producer, partition, group) for partition, group in lines.items())
                )
        except UnavailableError as fault:
            if isinstance(fault.__cause__, MessageSizeTooLargeError):
                raise ValueError(f"the brokers take no record as large: {fault}") from fault
            raise
        finally:
            self._pending -= count
        for partition, stamp in zip(lines, sent, strict=True):
            self._latest_ms[partition] = max(stamp, self._latest_ms.get(partition, 0))
        return max((self._latest_ms[partition] for partition in lines), default=0)

    async def _send(self, producer: AIOKafkaProducer, partition: int, lines: Sequence[Line]) -> int:
        """Send one partition's lines in as few batches as hold them; a batch is stored whole or not at all."""
        futures: list[asyncio.Future[Any]] = []
        batch = producer.create_batch()
        for line in lines:
            if batch.append(key=line.key, value=line.value, timestamp=None, headers=list(line.headers)) is None:
                futures.append(await self._queue(producer, partition, batch))
                batch = producer.create_batch()
                batch.append(key=line.key, value=line.value, timestamp=None, headers=list(line.headers))
        futures.append(await self._queue(producer, partition, batch))
        stored = await asyncio.gather(*futures)
        return max(int(one.timestamp) for one in stored)

    async def _queue(self, producer: AIOKafkaProducer, partition: int, batch: Any) -> asyncio.Future[Any]:
        async with self._turns[partition]:
            future: asyncio.Future[Any] = await producer.send_batch(batch, self._topic, partition=partition)
            return future

    async def _started(self) -> AIOKafkaProducer:
        async with self._starting:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    **self._cluster.client,
                    acks="all",
                    enable_idempotence=True,
                    compression_type="lz4",
                    max_batch_size=BATCH_BYTES_MAX,
                )
                self._producer = producer
                await producer.start()
            return self._producer

    def close(self) -> None:
        """Give the producer up, with all that waits in it; the next append starts another."""
        producer, self._producer = self._producer, None
        if producer is not None:
            self._closer.close(lambda: _stop(producer))


async def _stop(producer: AIOKafkaProducer) -> None:
    """Stop a producer without delivering what waits in it, which `stop` alone would wait for, for ever if need be."""
    waiting = producer._message_accumulator
    batches = [*waiting._pending_batches, *chain.from_iterable(waiting._batches.values())]
    waiting.reenqueue = lambda batch: None  # what an attempt under way still fails to send is not to be sent again
    waiting.fail_all(KafkaError("given up"))
    for batch in batches:
        batch.future.exception()  # who waited for it has been told already, or has gone
    sender = producer._sender.sender_task
    if sender is not None:  # it takes being cancelled for a fault of a transaction, of which there is none
        sender.remove_done_callback(producer._sender._fail_all)
    while sender is not None and not sender.done():
        sender.cancel()
        await asyncio.wait({sender}, timeout=0.2)
    await producer.stop()
