"""Records on this machine's disk while the event log is away; they leave in order once it is back.

The store is an embedded event log of this process alone. What was handed to the event log and not yet forgotten here
when a process dies is handed over again: consumers tell duplicates.
"""

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Sequence

from dsp.events.topics import Topic
from dsp.kernel import logging, metrics
from dsp.kernel.errors import UnavailableError
from dsp.stream.port import Entry, EventLog

#: Hears the stamp that the event log has given a record.
Stamped = Callable[[int], None]
#: Handed to the event log at a time while it takes them: bids wait while records are copied and packed.
DRAIN_RECORDS_MAX = 256
#: Where it has just refused some: it is only asked whether it is back, so that being away costs next to nothing.
PROBE_RECORDS = 8


class Spill:
    """One topic's records that the event log has not taken. Not for several tasks, but for one that puts and one that
    drains.

    Args:
        store: opened by the caller.
        records_max: beyond it nothing more is taken.
    """

    def __init__(self, store: EventLog, topic: Topic, records_max: int) -> None:
        self._store = store
        self._topic = topic
        self._records_max = records_max
        self._told: deque[Stamped | None] = deque()
        self._limit = PROBE_RECORDS
        self.depth = 0

    async def open(self) -> None:
        """Find what an earlier process has left."""
        self.depth = await self._store.lag(self._topic, {})
        self._told.extend([None] * self.depth)

    async def put(self, entries: Sequence[Entry], told: Sequence[Stamped | None]) -> None:
        """Write records behind those that are here; they are durable when this returns.

        Raises:
            UnavailableError: there are too many, or the disk takes no more; none is kept then.
        """
        if self.depth + len(entries) > self._records_max:
            raise UnavailableError("the spill is full")
        # Counted first, so that nothing overtakes what is being written, nor is drained unknown.
        self.depth += len(entries)
        self._told.extend(told)
        try:
            await self._store.append(self._topic, entries)
        except UnavailableError:
            self.depth -= len(entries)
            for _ in entries:
                self._told.pop()
            raise

    async def drain(self, log: EventLog, limit: int) -> None:
        """Hand the oldest records, at most `limit`, to the event log, and forget them.

        One that the event log refuses by itself is forgotten as well, counted and logged.

        Raises:
            UnavailableError: the event log is away, or this disk; they stay here then.
        """
        batch = await self._store.read(self._topic, {}, min(limit, self._limit))
        if not batch.records:
            return
        stamp: int | None = None
        try:
            stamp = await log.append(self._topic, [Entry(record.key, record.value) for record in batch.records])
        except (UnavailableError, OSError):
            self._limit = PROBE_RECORDS
            raise
        except Exception as fault:
            if len(batch.records) > 1:
                for _ in batch.records:
                    await self.drain(log, 1)
                return
            logging.get(__name__).error("record refused and dropped", topic=self._topic.value, fault=repr(fault))
            metrics.OUTBOX_DROPPED.labels(self._topic.value).inc()
        self._limit = min(2 * self._limit, DRAIN_RECORDS_MAX)
        await self._store.trim(self._topic, sys.maxsize, batch.position)
        self.depth -= len(batch.records)
        told = [self._told.popleft() for _ in batch.records]
        if stamp is not None:
            tell(told, stamp)


def tell(told: Sequence[Stamped | None], stamp: int) -> None:
    """Tell all who want to know; what they do with it, and their faults, are no business of the caller's."""
    loop = asyncio.get_running_loop()
    for stamped in told:
        if stamped is not None:
            loop.call_soon(stamped, stamp)
