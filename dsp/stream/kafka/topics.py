"""Topics of a Kafka cluster: created where missing, refused where they are not what the platform relies on, trimmed."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import LeaderNotAvailableError, TopicAlreadyExistsError, for_code

from dsp.kernel.errors import UnavailableError
from dsp.stream.kafka.cluster import Cluster, reaching

#: A topic of the platform's. Stamps are the broker's: only one clock may decide what is late. What goes, goes by
#: `trim`, which knows what has been read; a broker that drops by age or size alone would drop what has not.
_CONFIGS = {"message.timestamp.type": "LogAppendTime", "cleanup.policy": "delete", "retention.ms": "-1"}
_RELIED_ON = ("message.timestamp.type", "cleanup.policy")
_POLL_SECONDS = 0.05


async def ensure(cluster: Cluster, name: str) -> str:
    """Create a topic if it is missing, wait until all its partitions can be used, and check what is relied on.

    Return the cluster's id.

    Raises:
        UnavailableError: the cluster is away, or the topic is of another kind.
    """
    topic = cluster.topic(name)
    async with reaching(f"topic {topic}"), _admin(cluster) as admin:
        (found,) = await admin.describe_topics([topic])
        if not found["partitions"]:
            await _create(admin, cluster, topic)
        while True:
            (found,) = await admin.describe_topics([topic])
            if found["partitions"] and all(one["leader"] >= 0 for one in found["partitions"]):
                break
            await asyncio.sleep(_POLL_SECONDS)
        configs = await _configs(admin, topic)
        cluster_id: str = (await admin.describe_cluster())["cluster_id"]
    faults = [f"{key} is {configs[key]}, not {_CONFIGS[key]}" for key in _RELIED_ON if configs[key] != _CONFIGS[key]]
    if len(found["partitions"]) != cluster.partitions:
        faults.append(f"it has {len(found['partitions'])} partitions, not stream_partitions = {cluster.partitions}")
    if faults:
        raise UnavailableError(f"topic {topic} cannot be used: {'; '.join(faults)}")
    return cluster_id


async def _create(admin: AIOKafkaAdminClient, cluster: Cluster, topic: str) -> None:
    # An acknowledged record is on all replicas but one at least, so that any one broker may be lost.
    configs = _CONFIGS | {"min.insync.replicas": str(max(1, cluster.replicas - 1))}
    response = await admin.create_topics([NewTopic(topic, cluster.partitions, cluster.replicas, topic_configs=configs)])
    for _, code, message in response.topic_errors:
        error = for_code(code)
        if code and error is not TopicAlreadyExistsError:  # another process was faster
            raise error(message)


async def _configs(admin: AIOKafkaAdminClient, topic: str) -> dict[str, str]:
    resource = ConfigResource(ConfigResourceType.TOPIC, topic, dict.fromkeys(_RELIED_ON, ""))
    (response,) = await admin.describe_configs([resource])
    ((code, message, _, _, entries),) = response.resources
    if code:
        raise for_code(code)(message)
    return {entry[0]: entry[1] for entry in entries}


async def delete_before(cluster: Cluster, offsets: Mapping[TopicPartition, int]) -> None:
    """Drop the records of each partition that lie before an offset."""
    async with reaching("trim"), _admin(cluster) as admin:
        try:
            await admin.delete_records({place: RecordsToDelete(offset) for place, offset in offsets.items()})
        except LeaderNotAvailableError:
            raise
        except KeyError as fault:  # of a partition whose leader the client does not know yet
            raise UnavailableError(f"Kafka: trim: {fault!r}") from fault


@asynccontextmanager
async def _admin(cluster: Cluster) -> AsyncIterator[Any]:
    admin = AIOKafkaAdminClient(**cluster.client)
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()
