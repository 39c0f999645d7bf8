"""Trims the event log: what every consumer has read and is older than the retention goes, nothing else."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from dsp.events.topics import Topic
from dsp.stream.port import EventLog, Position

#: Tells how far one consumer of a topic has got.
Reader = Callable[[], Awaitable[Position]]


async def trim(log: EventLog, before_ms: int, readers: Mapping[Topic, Sequence[Reader]]) -> dict[str, int]:
    """Drop old records of every topic named; return how many by topic. A topic without readers is kept by age alone."""
    dropped = {}
    for topic, positions in readers.items():
        slow = slowest([await position() for position in positions]) if positions else None
        dropped[topic.value] = await log.trim(topic, before_ms, slow)
    return dropped


def slowest(positions: Sequence[Position]) -> Position:
    """Return how far all consumers have got; a partition that one of them has not begun is left out."""
    partitions = set.intersection(*[set(position) for position in positions])
    return {partition: min(position[partition] for position in positions) for partition in partitions}
