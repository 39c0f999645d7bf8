"""Where the Kafka cluster is and how it is asked: addresses, names, bounds of time, and faults in our own terms."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from dsp.kernel.errors import UnavailableError

#: No call waits longer for the brokers; a fault that lasts longer is the caller's to bear.
CALL_SECONDS = 8.0
#: No single request to a broker waits longer.
REQUEST_MS = 5_000
_CLOSE_SECONDS = 3.0


class Cluster(NamedTuple):
    """A cluster and our place in it: topics are named `<prefix>.<topic>`, groups `<prefix>.<topic>.<group>`."""

    servers: tuple[str, ...]
    prefix: str
    partitions: int  # of each topic; for good, as records are spread by their keys over so many
    replicas: int  # of each partition, where a topic is to be created

    def topic(self, name: str) -> str:
        """Return the name that a topic has in the cluster."""
        return f"{self.prefix}.{name}" if self.prefix else name

    def group(self, topic: str, name: str) -> str:
        """Return the name that a topic's group has in the cluster."""
        return f"{self.topic(topic)}.{name}"

    def places(self, topic: str) -> list[TopicPartition]:
        """Return all partitions of a topic."""
        return [TopicPartition(self.topic(topic), number) for number in range(self.partitions)]

    @property
    def client(self) -> dict[str, Any]:
        """Return what every client of the cluster is made with."""
        return {"bootstrap_servers": list(self.servers), "request_timeout_ms": REQUEST_MS, "client_id": "dsp"}


def parse(url: str, partitions: int, replicas: int) -> Cluster:
    """Return the cluster that `kafka://host:port,host:port/prefix` names; the prefix may be left out.

    Raises:
        ValueError: it names none.
    """
    parts = urlsplit(url)
    servers = tuple(server for server in parts.netloc.split(",") if server)
    if parts.scheme != "kafka" or not servers or not all(server.rpartition(":")[2].isdecimal() for server in servers):
        raise ValueError(f"not kafka://host:port,host:port/prefix: {url!r}")
    return Cluster(servers, parts.path.strip("/"), partitions, replicas)


@asynccontextmanager
async def reaching(
    purpose: str, abandon: Callable[[], None] | None = None, seconds: float = CALL_SECONDS
) -> AsyncIterator[None]:
    """Bound what is done inside, and raise UnavailableError for whatever Kafka or the network make of it.

    Then, and when it is cancelled, `abandon` is called: the client that was used may be in any state.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except (KafkaError, OSError) as fault:  # TimeoutError is an OSError
        if abandon is not None:
            abandon()
        raise UnavailableError(f"Kafka: {purpose}: {fault!r}") from fault
    except asyncio.CancelledError as fault:
        if abandon is not None:
            abandon()
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # Nobody cancelled us, but what we waited for: another call has given the same client up.
        raise UnavailableError(f"Kafka: {purpose}: given up") from fault


class Closer:
    """Closes clients that are done with, in the background: one whose brokers are away takes its time."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def close(self, stop: Callable[[], Awaitable[None]]) -> None:
        """Begin to close a client."""
        task = asyncio.create_task(_bounded(stop))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def wait(self) -> None:
        """Wait until every client is closed or given up."""
        await asyncio.gather(*self._tasks)


async def _bounded(stop: Callable[[], Awaitable[None]]) -> None:
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await stop()
    except (KafkaError, OSError):
        return  # nothing is lost with it: what was acknowledged is in the log, and a share ends by its time-out
