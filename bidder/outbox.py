"""The way to the event log: records gather for some milliseconds and are appended together.

Decisions are fire and forget within a bound. Notices are awaited: they count only once they are durable. Where the
event log is a server, what it does not take in time is written to this machine's disk, and is durable there; what comes
later waits behind it, so that the order is kept.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from bidder.spill import Spill, Stamped, tell
from dsp.events.topics import Topic
from dsp.kernel import logging, metrics
from dsp.kernel.clock import MS_PER_SECOND, NS_PER_MS, Clock
from dsp.kernel.errors import UnavailableError
from dsp.kernel.lifecycle import cancel
from dsp.stream.port import Entry, EventLog

RETRY_SECONDS = 0.2
#: For so long a failure is held against a log while there is nothing to try it with again.
DOUBT_SECONDS = 2.0
_POLL_SECONDS = 0.01
#: More records are not encoded in a row: bids wait for so long.
_ENCODED_AT_ONCE = 100
#: What an append raises while it may succeed later; anything else says that a record is unusable.
AWAY = (UnavailableError, OSError, asyncio.CancelledError)


class _Item:
    """A record; for one that is awaited, what is done once it is durable, and who hears its stamp."""

    __slots__ = ("_key", "_value", "done", "stamped")

    def __init__(
        self,
        key: str,
        value: bytes | Callable[[], bytes],
        done: asyncio.Future[None] | None = None,
        stamped: Stamped | None = None,
    ) -> None:
        self._key = key
        self._value = value
        self.done = done
        self.stamped = stamped

    def entry(self) -> Entry:
        """Return the record, which is encoded the first time."""
        if not isinstance(self._value, bytes):
            self._value = self._value()
        return Entry(self._key, self._value)


class LaneTuning(NamedTuple):
    """How many records of a topic may wait, and for how long they gather before they are appended."""

    records_max: int
    flush_ms: int


class Outbox:
    """Bounded lanes to the event log, one a topic, so that a slow topic does not hold up another.

    Args:
        spills: where a topic's records wait while the event log is away; without one they wait in memory, or fail.
        append_ms_max: how long the event log may take before records are spilled.
    """

    def __init__(
        self,
        log: EventLog,
        tuning: Mapping[Topic, LaneTuning],
        batch_max: int,
        clock: Clock,
        spills: Mapping[Topic, Spill] | None = None,
        append_ms_max: int = 1_000,
    ) -> None:
        append_seconds = append_ms_max / MS_PER_SECOND
        self._lanes = {
            topic: _Lane(log, topic, lane, batch_max, clock, (spills or {}).get(topic), append_seconds)
            for topic, lane in tuning.items()
        }

    @property
    def topics(self) -> Collection[Topic]:
        """Return what it has lanes for."""
        return self._lanes.keys()

    async def start(self) -> None:
        """Start the writers, and hand over what an earlier process has left on disk."""
        for lane in self._lanes.values():
            await lane.start()

    async def stop(self, timeout_s: float) -> int:
        """Write what is left, for at most `timeout_s`, and stop; return how many records were lost.

        What is on disk then stays there for the next process.
        """
        return sum(await asyncio.gather(*(lane.stop(timeout_s) for lane in self._lanes.values())))

    def offer(self, topic: Topic, key: str, encode: Callable[[], bytes]) -> bool:
        """Queue a record without waiting; False when the lane is full, and then it is counted and dropped.

        It is encoded with those it is written with, so that whoever offers it need not wait for that either.
        """
        return self._lanes[topic].offer(_Item(key, encode))

    def append(self, topic: Topic, key: str, value: bytes, stamped: Stamped | None = None) -> asyncio.Future[None]:
        """Queue a record and return a future that is done once the record is durable.

        `stamped` is called with the record's `appended_ms` when it is in the event log: before that, or later where it
        was spilled, and never where another process hands it over.

        Raises:
            UnavailableError: the lane is full. The future raises it when nothing takes the record.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self._lanes[topic].offer(_Item(key, value, done, stamped)):
            raise UnavailableError("the outbox is full")
        return done

    def depth(self, topic: Topic) -> int:
        """Return how many records of a topic wait."""
        return self._lanes[topic].depth

    def report(self) -> None:
        """Set the gauges of what waits."""
        for lane in self._lanes.values():
            lane.report()

    def takes(self, topic: Topic) -> bool:
        """Return whether a topic's lane has room and the log, or the disk in its place, takes its records."""
        return self._lanes[topic].healthy

    def healthy(self) -> bool:
        """Return whether every lane has room and the log takes its records; samples of requests stop no bids."""
        return all(lane.healthy for topic, lane in self._lanes.items() if topic is not Topic.REQUESTS)


class _Lane:
    def __init__(
        self,
        log: EventLog,
        topic: Topic,
        tuning: LaneTuning,
        batch_max: int,
        clock: Clock,
        spill: Spill | None,
        append_seconds: float,
    ) -> None:
        self._log = log
        self._topic = topic
        self._bound = tuning.records_max
        self._flush_seconds = tuning.flush_ms / MS_PER_SECOND
        self._batch_max = batch_max
        self._clock = clock
        self._spill = spill
        self._append_seconds = append_seconds if spill is not None else None
        self._items: deque[_Item] = deque()
        self._wake = asyncio.Event()
        self._spilled = asyncio.Event()
        self._writing = 0
        self._failed = self._complained = False
        self._closed = False
        self._tasks: list[asyncio.Task[None]] = []
        self._depth = metrics.OUTBOX_DEPTH.labels(topic.value)
        metrics.OUTBOX_DEPTH_MAX.labels(topic.value).set(self._bound)
        self._dropped = metrics.OUTBOX_DROPPED.labels(topic.value)
        self._on_disk = metrics.OUTBOX_SPILLED.labels(topic.value)

    @property
    def depth(self) -> int:
        return len(self._items) + self._writing

    @property
    def healthy(self) -> bool:
        return not self._failed and self.depth < self._bound

    def report(self) -> None:
        self._depth.set(self.depth)
        self._on_disk.set(self._spill.depth if self._spill is not None else 0)

    async def start(self) -> None:
        self._tasks.append(asyncio.create_task(self._run(), name=f"outbox-{self._topic}"))
        if self._spill is not None:
            await self._spill.open()
            self._tasks.append(asyncio.create_task(self._drain(self._spill), name=f"drain-{self._topic}"))
            self._spilled.set()

    def offer(self, item: _Item) -> bool:
        if self._closed or len(self._items) + self._writing >= self._bound:
            if item.done is None:
                self._dropped.inc()
            return False
        self._items.append(item)
        self._wake.set()
        return True

    async def stop(self, timeout_s: float) -> int:
        give_up_at = asyncio.get_running_loop().time() + timeout_s
        while self._busy() and asyncio.get_running_loop().time() < give_up_at:  # noqa: ASYNC110 - once, at the end
            await asyncio.sleep(max(self._flush_seconds, _POLL_SECONDS))
        self._closed = True
        for task in self._tasks:
            await cancel(task)
        lost = sum(item.done is None for item in self._items)  # who waits for one is told, and sends it again
        for item in self._items:
            _fail(item, UnavailableError("the bidder is stopping"))
        self._dropped.inc(lost)
        self._items.clear()
        if self._spill is not None and self._spill.depth:
            logging.get(__name__).warning("left on disk", topic=self._topic.value, records=self._spill.depth)
        return lost

    def _busy(self) -> bool:
        return self.depth > 0 or (self._spill is not None and self._spill.depth > 0)

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(DOUBT_SECONDS if self._failed else None):
                    await self._wake.wait()
            except TimeoutError:
                # Only the next record can tell, and who is not ready is sent none.
                self._failed = False
                continue
            await asyncio.sleep(self._flush_seconds)
            self._wake.clear()
            while self._items:
                await self._flush()

    async def _flush(self) -> None:
        batch = [self._items.popleft() for _ in range(min(len(self._items), self._batch_max))]
        self._writing = len(batch)
        began_ns = self._clock.elapsed_ns()
        try:
            await _encode(batch)
            await self._write(batch)
        except AWAY as fault:
            # Nothing is durable: tell those who wait, and keep the rest for another try.
            if _cancelled():
                self._keep(batch, UnavailableError("the bidder is stopping"))
                raise
            self._report_fault("append failed", fault)
            self._failed = True
            self._keep(batch, UnavailableError("the event log is away"))
            await asyncio.sleep(RETRY_SECONDS)
        except Exception as fault:
            await self._sift(batch, fault)
        else:
            self._failed = False
            self._writing = 0
            for item in batch:
                _done(item)
        metrics.OUTBOX_FLUSH_DURATION.observe((self._clock.elapsed_ns() - began_ns) / NS_PER_MS / MS_PER_SECOND)

    async def _write(self, batch: list[_Item]) -> None:
        """Make records durable: in the event log, or on disk behind those that wait there."""
        entries = [item.entry() for item in batch]
        spill = self._spill
        if spill is None or not spill.depth:
            try:
                async with asyncio.timeout(self._append_seconds):
                    stamp = await self._log.append(self._topic, entries)
            except AWAY as fault:
                if spill is None or _cancelled():
                    raise
                self._report_fault("append failed, records go to disk", fault)
            else:
                self._complained = False
                tell([item.stamped for item in batch], stamp)
                return
        await spill.put(entries, [item.stamped for item in batch])
        self._spilled.set()

    async def _sift(self, batch: list[_Item], fault: Exception) -> None:
        """Write one by one what was refused together, and drop what cannot be written: it never will be."""
        for place, item in enumerate(batch if len(batch) > 1 else []):
            try:
                await self._write([item])
            except AWAY:
                if _cancelled():
                    self._keep(batch[place:], UnavailableError("the bidder is stopping"))
                    raise
                self._keep([item], UnavailableError("the event log is away"))
            except Exception as unusable:
                self._drop(item, unusable)
            else:
                _done(item)
        if len(batch) == 1:
            self._drop(batch[0], fault)
        self._writing = 0

    def _drop(self, item: _Item, fault: Exception) -> None:
        logging.get(__name__).error("record refused and dropped", topic=self._topic.value, fault=repr(fault))
        self._dropped.inc()
        _fail(item, UnavailableError("the record cannot be written"))

    async def _drain(self, spill: Spill) -> None:
        while True:
            await self._spilled.wait()
            self._spilled.clear()
            while spill.depth:
                try:
                    await spill.drain(self._log, self._batch_max)
                except (Exception, asyncio.CancelledError) as fault:
                    if _cancelled():
                        raise
                    self._report_fault("draining failed", fault)
                    await asyncio.sleep(RETRY_SECONDS)
                else:
                    self._complained = False

    def _report_fault(self, message: str, fault: BaseException) -> None:
        """Log the first fault of a row of them."""
        if not self._complained:
            logging.get(__name__).error(message, topic=self._topic.value, fault=repr(fault))
        self._complained = True

    def _keep(self, batch: list[_Item], fault: UnavailableError) -> None:
        self._writing = 0
        for item in reversed(batch):
            if item.done is None:
                self._items.appendleft(item)
            else:
                _fail(item, fault)


async def _encode(batch: list[_Item]) -> None:
    """Encode what is about to be written, and let others have their turn between."""
    for number, item in enumerate(batch, 1):
        item.entry()
        if not number % _ENCODED_AT_ONCE:
            await asyncio.sleep(0)


def _done(item: _Item) -> None:
    if item.done is not None and not item.done.done():
        item.done.set_result(None)


def _cancelled() -> bool:
    """Tell whether somebody wants this task to end; a wait may be cancelled for reasons of its own as well."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _fail(item: _Item, fault: UnavailableError) -> None:
    if item.done is not None and not item.done.done():
        item.done.set_exception(fault)
