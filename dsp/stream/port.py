"""What the platform asks of an event log: durable append, ordered read, positions. At least once, never less."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

#: Partition to the offset of the next record to read. Consumers treat it as opaque and store it with their state.
Position = dict[int, int]


class Entry(NamedTuple):
    """One record to append; equal keys go to one partition and keep their order."""

    key: str
    value: bytes


class Record(NamedTuple):
    """One stored record; `appended_ms` never decreases within a partition, as one reader sees it."""

    partition: int
    offset: int
    appended_ms: int
    key: str
    value: bytes


class Batch(NamedTuple):
    """Records, those of each partition in order, and the position after them.

    `end` tells that nothing more was there when it was read. `watermarks`, by partition read: every record of it that
    was appended before this instant is in this batch or an earlier one; 0 where nothing is known yet.
    """

    records: Sequence[Record]
    position: Position
    end: bool
    watermarks: Mapping[int, int]

    @property
    def watermark_ms(self) -> int:
        """Return the instant before which everything appended to the partitions read is here or in an earlier batch."""
        return min(self.watermarks.values(), default=0)


class Assignment(NamedTuple):
    """The share of a topic that is this process's at the moment, and how many partitions the topic has in all."""

    partitions: frozenset[int]
    total: int


class EventLog(Protocol):
    """A durable log of topics. All methods raise dsp.kernel.errors.UnavailableError when the log cannot be reached."""

    async def open(self) -> None:
        """Make ready; a log that is away is no fault before it is used."""
        ...

    async def close(self) -> None:
        """Release connections; nothing appended is lost, and shares go to other processes at once."""
        ...

    async def identity(self, topic: str) -> str:
        """Return whose offsets a topic's are: a position is good for this log and no other.

        It is the same whenever the same log is opened, by whatever addresses.
        """
        ...

    async def append(self, topic: str, entries: Sequence[Entry]) -> int:
        """Append the entries; all are durable when this returns. Return the latest `appended_ms` of them.

        When it raises UnavailableError, any part of them may have been appended or may still be. The caller appends
        them all again: consumers bear records that come twice, and such records may then be out of their key's order.
        Any other error means that an entry is unusable and that none was appended.
        """
        ...

    async def read(
        self,
        topic: str,
        position: Position,
        limit: int,
        wait_ms: int = 0,
        partitions: Collection[int] | None = None,
        fresh: bool = False,
    ) -> Batch:
        """Read up to `limit` records after `position`, waiting up to `wait_ms` for the first.

        Of the `partitions` given, or of all. One that `position` lacks starts at its oldest record kept. A position
        that this log never reached (the log was lost or replaced) is refused: skipping silently to new records would
        lose what they stand for. With `fresh` the watermarks of quiet partitions are kept within a second or two of
        the log's clock, which costs a write; without, they are those of the records read.
        """
        ...

    async def assignment(self, topic: str, group: str) -> Assignment:
        """Return this process's share of a topic for a group; the first call asks for one, which takes a moment.

        The members of a group share its partitions; what one leaves, by `close` or by dying, others get. A share may
        end at any time without notice, so two processes may believe to own a partition at once: a consumer saves
        state and position in one transaction that checks that the position is still the one it read from.
        """
        ...

    async def committed(self, topic: str, group: str) -> Position:
        """Return a group's committed position; empty when it has none."""
        ...

    async def commit(self, topic: str, group: str, position: Position) -> None:
        """Store a group's position, for consumers that keep no state of their own."""
        ...

    async def lag(self, topic: str, position: Position) -> int:
        """Return how many records lie after `position`, a log's own few included."""
        ...

    async def tail(self, topic: str, count: int) -> Position:
        """Return the position after which the newest `count` records lie, as many of each partition, or all there are.

        A log's own few count as well.
        """
        ...

    async def trim(self, topic: str, before_ms: int, position: Position | None = None) -> int:
        """Drop records both appended before `before_ms` and before `position`, if given; return how many."""
        ...
