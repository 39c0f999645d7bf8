"""Poison: records that no retry can mend. They are parked in a topic of their own and counted, and block nothing."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import msgspec

from dsp.events.dead_letter import DeadLetter, encode
from dsp.events.schema import Event, decode
from dsp.events.topics import Topic
from dsp.kernel import logging, metrics
from dsp.stream.port import Entry, EventLog, Record

#: More of a record is not kept: a letter must fit where the record did.
VALUE_BYTES_MAX = 500_000
KEY_CHARACTERS_MAX = 1_000
_Event = TypeVar("_Event", bound=Event)


class Poison(NamedTuple):
    """A record, and why it cannot be used."""

    record: Record
    fault: str


def sift(
    records: Sequence[Record], kind: type[_Event] | tuple[type[_Event], ...], beside: tuple[type[Event], ...] = ()
) -> tuple[list[tuple[Record, _Event]], list[Poison]]:
    """Return the records of one kind or several, decoded, and apart from them all that do not belong in the topic.

    What does belong there and is not the reader's business is `beside`: it is in neither.
    """
    found: list[tuple[Record, _Event]] = []
    poison: list[Poison] = []
    for record in records:
        try:
            event = decode(record.value)
        except msgspec.DecodeError as fault:
            poison.append(Poison(record, f"is no event: {fault}"))
            continue
        if isinstance(event, kind):
            found.append((record, event))
        elif not isinstance(event, beside):
            poison.append(Poison(record, f"is a {type(event).__name__}"))
    return found, poison


async def park(log: EventLog, topic: Topic, group: str, poison: Sequence[Poison]) -> None:
    """Park records before the position moves past them: in doubt they are parked twice, and never lost.

    Raises:
        UnavailableError: the log is away; the position must not move then.
    """
    counter = metrics.POISON_RECORDS.labels(topic=topic)  # so that the first is an increase
    if not poison:
        return
    letters = []
    for record, fault in poison:
        letter = DeadLetter(
            topic=topic,
            partition=record.partition,
            offset=record.offset,
            appended_ms=record.appended_ms,
            key=record.key[:KEY_CHARACTERS_MAX],
            value=record.value[:VALUE_BYTES_MAX],
            group=group,
            fault=fault,
        )
        letters.append(Entry(letter.place, encode(letter)))
    await log.append(Topic.DEAD_LETTERS, letters)
    counter.inc(len(poison))
    # One line a batch: what is wrong with one record is often wrong with millions. Each letter says its own fault.
    first = poison[0]
    logging.get(__name__).error(
        "records parked", topic=topic, group=group, records=len(poison), partition=first.record.partition,
        first_offset=first.record.offset, fault=first.fault,
    )  # fmt: skip
