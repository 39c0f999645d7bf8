"""Trims the event log: what every consumer has read and is older than the retention goes, nothing else."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from dsp.events.topics import Topic
from dsp.stream.port import EventLog, Position

#: Tells how far one consumer of a topic has got.
Reader = Callable[[], Awaitable[Position]]
_SCAN_RECORDS = 1_000


async def trim(log: EventLog, before_ms: int, readers: Mapping[Topic, Sequence[Reader]]) -> dict[str, int]:
    """Drop old records of every topic named; return how many by topic. A topic without readers is kept by age alone."""
    dropped = {}
    for topic, positions in readers.items():
        if positions:
            position = slowest([await position() for position in positions])
        else:
            position = await _first_young(log, topic, before_ms)
        dropped[topic.value] = await log.trim(topic, before_ms, position)
    return dropped


def slowest(positions: Sequence[Position]) -> Position:
    """Return how far all consumers have got; a partition that one of them has not begun is left out."""
    partitions = set.intersection(*[set(position) for position in positions])
    return {partition: min(position[partition] for position in positions) for partition in partitions}


async def _first_young(log: EventLog, topic: Topic, before_ms: int) -> Position:
    position: Position = {}
    while True:
        batch = await log.read(topic, position, _SCAN_RECORDS)
        old = [record for record in batch.records if record.appended_ms < before_ms]
        for record in old:
            position[record.partition] = record.offset + 1
        if batch.end or len(old) < len(batch.records):
            return position
