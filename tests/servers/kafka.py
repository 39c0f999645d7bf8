"""Apache Kafka: a real broker, started from the jars that deploy/dev/kafka/broker.py fetches.

One broker a process of the test run, started for the first test that asks; each test has topics of its own.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from deploy.dev.kafka import broker
from tests.servers import absent, free_port

Brokers = Callable[[int], broker.Cluster]
_numbers = count()


def _cluster(root: Path, nodes: int) -> broker.Cluster:
    ports = [free_port() for _ in range(2 * nodes)]
    return broker.Cluster(root, ports[:nodes], ports[nodes:])


@pytest.fixture(scope="session")
def kafka_server() -> Iterator[broker.Cluster]:
    """One broker for all tests of this process that do not stop it."""
    why = broker.missing()
    if why is not None:
        absent(f"no Kafka: {why}")
    root = Path(tempfile.mkdtemp(prefix="dsp-kafka-"))
    cluster = _cluster(root, 1)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def kafka(kafka_server: broker.Cluster) -> str:
    """The address of topics that no other test uses, as the setting `stream_url` has it."""
    return f"kafka://{kafka_server.servers}/test{next(_numbers)}"


@pytest.fixture
def brokers(tmp_path: Path) -> Iterator[Brokers]:
    """A maker of brokers that belong to one test, which may stop and kill them."""
    why = broker.missing()
    if why is not None:
        absent(f"no Kafka: {why}")
    made: list[broker.Cluster] = []

    def make(nodes: int) -> broker.Cluster:
        cluster = _cluster(tmp_path / f"kafka{len(made)}", nodes)
        made.append(cluster)
        cluster.start()
        return cluster

    yield make
    for cluster in made:
        cluster.stop()
