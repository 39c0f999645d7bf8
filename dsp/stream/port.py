"""What the platform asks of an event log: durable append, ordered read, positions. At least once, never less."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

#: Partition to the offset of the next record to read. Consumers treat it as opaque and store it with their state.
Position = dict[int, int]


class Entry(NamedTuple):
    """One record to append; equal keys keep their order."""

    key: str
    value: bytes


class Record(NamedTuple):
    """One stored record; `appended_ms` never decreases within a partition."""

    partition: int
    offset: int
    appended_ms: int
    key: str
    value: bytes


class Batch(NamedTuple):
    """Records in order, and the position after them. `end` tells that nothing more was there when it was read."""

    records: Sequence[Record]
    position: Position
    end: bool
    #: Every record appended before this instant is in this batch or an earlier one.
    watermark_ms: int


class EventLog(Protocol):
    """A durable log of topics. All methods raise dsp.kernel.errors.UnavailableError when the log cannot be reached."""

    async def open(self) -> None:
        """Connect, and create what is missing."""
        ...

    async def close(self) -> None:
        """Release connections; nothing appended is lost."""
        ...

    async def append(self, topic: str, entries: Sequence[Entry]) -> int:
        """Append all entries or none; they are durable when this returns. Return their (last) `appended_ms`."""
        ...

    async def read(self, topic: str, position: Position, limit: int, wait_ms: int = 0) -> Batch:
        """Read up to `limit` records after `position`, waiting up to `wait_ms` for the first.

        An empty position starts at the oldest record kept. A position that this log never reached (the log was
        lost or replaced) is refused: skipping silently to new records would lose what they stand for.
        """
        ...

    async def committed(self, topic: str, group: str) -> Position:
        """Return a group's committed position; empty when it has none."""
        ...

    async def commit(self, topic: str, group: str, position: Position) -> None:
        """Store a group's position, for consumers that keep no state of their own."""
        ...

    async def lag(self, topic: str, position: Position) -> int:
        """Return how many records lie after `position`."""
        ...

    async def trim(self, topic: str, before_ms: int, position: Position) -> int:
        """Drop records both appended before `before_ms` and before `position`; return how many."""
        ...
