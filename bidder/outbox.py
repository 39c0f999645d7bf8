"""The way to the event log: records gather for some milliseconds and are appended in one transaction.

Decisions are fire and forget within a bound. Notices are awaited: they count only once they are durable.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from dsp.events.topics import Topic
from dsp.kernel import logging, metrics
from dsp.kernel.clock import MS_PER_SECOND, NS_PER_MS, Clock
from dsp.kernel.errors import UnavailableError
from dsp.stream.port import Entry, EventLog

RETRY_SECONDS = 0.2
_POLL_SECONDS = 0.01

_Item = tuple[Entry, asyncio.Future[int] | None]


class LaneTuning(NamedTuple):
    """How many records of a topic may wait, and for how long they gather before they are appended."""

    records_max: int
    flush_ms: int


class Outbox:
    """Bounded lanes to the event log, one a topic, so that a slow topic does not hold up another."""

    def __init__(self, log: EventLog, tuning: Mapping[Topic, LaneTuning], batch_max: int, clock: Clock) -> None:
        self._lanes = {
            topic: _Lane(log, topic, lane.records_max, lane.flush_ms / MS_PER_SECOND, batch_max, clock)
            for topic, lane in tuning.items()
        }

    async def start(self) -> None:
        """Start the writers."""
        for lane in self._lanes.values():
            lane.start()

    async def stop(self, timeout_s: float) -> int:
        """Write what is left, for at most `timeout_s`, and stop; return how many records could not be written."""
        return sum(await asyncio.gather(*(lane.stop(timeout_s) for lane in self._lanes.values())))

    def offer(self, topic: Topic, key: str, value: bytes) -> bool:
        """Queue a record without waiting; False when the lane is full, and then it is counted and dropped."""
        return self._lanes[topic].offer((Entry(key, value), None))

    def append(self, topic: Topic, key: str, value: bytes) -> asyncio.Future[int]:
        """Queue a record and return a future that is done once the record is durable: its `appended_ms`.

        Raises:
            UnavailableError: the lane is full. The future raises it when the log is away.
        """
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if not self._lanes[topic].offer((Entry(key, value), done)):
            raise UnavailableError("the outbox is full")
        return done

    def depth(self, topic: Topic) -> int:
        """Return how many records of a topic wait."""
        return self._lanes[topic].depth

    def report(self) -> None:
        """Set the gauges of what waits."""
        for lane in self._lanes.values():
            lane.report()

    def healthy(self) -> bool:
        """Return whether every lane has room and its last append succeeded."""
        return all(lane.healthy for lane in self._lanes.values())


class _Lane:
    def __init__(
        self, log: EventLog, topic: Topic, bound: int, flush_seconds: float, batch_max: int, clock: Clock
    ) -> None:
        self._log = log
        self._topic = topic
        self._bound = bound
        self._flush_seconds = flush_seconds
        self._batch_max = batch_max
        self._clock = clock
        self._items: deque[_Item] = deque()
        self._wake = asyncio.Event()
        self._writing = 0
        self._failed = False
        self._closed = False
        self._task: asyncio.Task[None] | None = None
        self._depth = metrics.OUTBOX_DEPTH.labels(topic.value)
        self._dropped = metrics.OUTBOX_DROPPED.labels(topic.value)

    @property
    def depth(self) -> int:
        return len(self._items) + self._writing

    @property
    def healthy(self) -> bool:
        return not self._failed and self.depth < self._bound

    def report(self) -> None:
        self._depth.set(self.depth)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"outbox-{self._topic}")

    def offer(self, item: _Item) -> bool:
        if self._closed or self.depth >= self._bound:
            if item[1] is None:
                self._dropped.inc()
            return False
        self._items.append(item)
        self._wake.set()
        return True

    async def stop(self, timeout_s: float) -> int:
        give_up_at = asyncio.get_running_loop().time() + timeout_s
        while self.depth and asyncio.get_running_loop().time() < give_up_at:  # noqa: ASYNC110 - once, at the end
            await asyncio.sleep(max(self._flush_seconds, _POLL_SECONDS))
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        left = self.depth
        for _, done in self._items:
            _fail(done, UnavailableError("the bidder is stopping"))
        self._dropped.inc(sum(done is None for _, done in self._items))
        self._items.clear()
        return left

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(self._flush_seconds)
            self._wake.clear()
            while self._items:
                await self._flush()

    async def _flush(self) -> None:
        batch = [self._items.popleft() for _ in range(min(len(self._items), self._batch_max))]
        self._writing = len(batch)
        began_ns = self._clock.elapsed_ns()
        try:
            appended_ms = await self._log.append(self._topic, [entry for entry, _ in batch])
        except asyncio.CancelledError:
            self._keep(batch, UnavailableError("the bidder is stopping"))
            raise
        except Exception as fault:
            # Whatever went wrong, nothing was written: tell those who wait, and keep the rest for another try.
            if not self._failed:
                logging.get(__name__).error("append failed", topic=self._topic.value, fault=repr(fault))
            self._failed = True
            self._keep(batch, UnavailableError("the event log is away"))
            await asyncio.sleep(RETRY_SECONDS)
        else:
            self._failed = False
            self._writing = 0
            for _, done in batch:
                if done is not None and not done.done():
                    done.set_result(appended_ms)
        metrics.OUTBOX_FLUSH_DURATION.observe((self._clock.elapsed_ns() - began_ns) / NS_PER_MS / MS_PER_SECOND)

    def _keep(self, batch: list[_Item], fault: UnavailableError) -> None:
        self._writing = 0
        for item in reversed(batch):
            if item[1] is None:
                self._items.appendleft(item)
            else:
                _fail(item[1], fault)


def _fail(done: asyncio.Future[int] | None, fault: UnavailableError) -> None:
    if done is not None and not done.done():
        done.set_exception(fault)
