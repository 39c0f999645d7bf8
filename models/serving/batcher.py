"""Gathers what requests ask of a model into batches that a thread runs, for devices to which many rows cost little more
than one. Which rows those are and what a run makes of them is the business of whoever submits them.

The clock starts at a batch's first item. Every item has a time by which it is answered: with its result, or with None,
which means that the prior must do. Nothing here is late, unbounded, or raised at whoever waits.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from math import inf
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol

from dsp.kernel import logging, metrics
from dsp.kernel.clock import MS_PER_SECOND, NS_PER_SECOND, Clock
from dsp.kernel.metrics import Fallback

#: While one batch runs the next is made ready, so that the device does not wait for the event loop.
IN_FLIGHT_MAX = 2
#: Ends that lie closer together are one: they are sums of floats, and a timer of a loop may take a millisecond.
_SAME_S = 1e-6

#: Makes the results of a batch's items, in their order, in a thread, one batch at a time. Items of one run go together.
Run = Callable[[Sequence[Any]], Sequence[Any]]


class Worker(Protocol):
    """Where batches run."""

    def start(self) -> None:
        """Be ready for work."""
        ...

    def put(self, work: Callable[[], None]) -> None:
        """Do this after what was put before. It does not raise."""
        ...

    def stop(self) -> None:
        """Take no more work."""
        ...


class ThreadWorker:
    """One thread of its own: ONNX Runtime lets go of the interpreter while a batch runs, so that auctions go on.

    An executor would cost half as much again for each batch. The thread is a daemon: a device that hangs holds up no
    exit.
    """

    def __init__(self) -> None:
        self._waiting: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def start(self) -> None:
        Thread(target=self._work, name="batcher", daemon=True).start()

    def put(self, work: Callable[[], None]) -> None:
        self._waiting.put(work)

    def stop(self) -> None:
        self._waiting.put(None)

    def _work(self) -> None:
        while (work := self._waiting.get()) is not None:
            work()


@dataclass(slots=True, eq=False)
class _Item:
    run: Run
    staged: Any
    rows: int
    since_ns: int
    answer: "asyncio.Future[Any]"
    expires_s: float  # on the loop's clock


class Batcher:
    """Batches of at most `rows_max` rows, sent off `wait_ms` after their first item or as soon as they are full.

    Where a batch is due already while others run, it leaves when one of them is done, with all that has come by then.
    """

    def __init__(self, rows_max: int, wait_ms: float, queue_rows_max: int, clock: Clock, worker: Worker) -> None:
        self._rows_max = rows_max
        self._wait_s = wait_ms / MS_PER_SECOND
        self._queue_rows_max = queue_rows_max
        self._clock = clock
        self._worker = worker
        self._queue: deque[_Item] = deque()
        self._rows = 0  # in the queue
        self._in_flight: list[list[_Item]] = []
        self._due = False
        self._timer: asyncio.TimerHandle | None = None
        # One timer for all items, at the time of the one that waits least: a timer of its own would cost each a third
        # of what it costs in all.
        self._expiry: asyncio.TimerHandle | None = None
        self._expires_s = inf
        self._run_s = 0.0  # how long the latest run took
        self._failing = False
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def rows(self) -> int:
        """Return how many rows wait to be sent off."""
        return self._rows

    async def start(self) -> None:
        """Run what is submitted from now on."""
        self._worker.start()

    def submit(self, run: Run, staged: Any, rows: int, patience_ms: float) -> "asyncio.Future[Any]":
        """Return a future of what `run` makes of an item, or of None once `patience_ms` have passed without that.

        Args:
            run: makes the results; where it is another than the earlier items' (a model was swapped), they go first.
            staged: the item, given to `run` among others; `rows` says how many rows it is, at most `rows_max`.
            patience_ms: how long the caller can wait.
        """
        loop = asyncio.get_running_loop()
        patience_s = patience_ms / MS_PER_SECOND
        item = _Item(run, staged, rows, self._clock.elapsed_ns(), loop.create_future(), loop.time() + patience_s)
        self._drop_answered()
        if self._closed:
            return self._give_up(item, Fallback.STOPPING)
        if self._rows + rows > self._queue_rows_max:
            return self._give_up(item, Fallback.QUEUE_FULL)
        if item.expires_s < self._expires_s:
            self._expire_at(item.expires_s)
        self._queue.append(item)
        self._rows += rows
        self._idle.clear()
        urgent = patience_s < self._wait_s + self._run_s
        if urgent or self._rows >= self._rows_max:
            self._due = True
        if self._due:
            self._send()
        elif self._timer is None:
            self._timer = loop.call_later(self._wait_s, self._on_time)
        return item.answer

    async def stop(self, timeout_s: float) -> None:
        """Take no more items, run those that wait, and end. What has not begun within the time gets None; what has, has
        its own time.
        """
        self._closed = self._due = True
        self._send()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        for item in self._queue:
            self._give_up(item, Fallback.STOPPING)
        self._queue.clear()
        self._rows = 0
        self._worker.stop()

    def report(self) -> None:
        """Set the gauge of what waits."""
        metrics.BATCH_QUEUE_ROWS.set(self._rows)

    def _expire_at(self, expires_s: float) -> None:
        """Look for expired items then, and not before."""
        if self._expiry is not None:
            self._expiry.cancel()
        self._expires_s = expires_s
        self._expiry = asyncio.get_running_loop().call_at(expires_s, self._expire) if expires_s < inf else None

    def _expire(self) -> None:
        """Give up the items whose time is over, and look again when that of the next is."""
        next_s, now_s = inf, max(asyncio.get_running_loop().time(), self._expires_s)
        for item in chain(self._queue, *self._in_flight):
            if item.expires_s <= now_s + _SAME_S:
                self._give_up(item, Fallback.EXPIRED)
            elif not item.answer.done():
                next_s = min(next_s, item.expires_s)
        self._expire_at(next_s)

    def _on_time(self) -> None:
        self._timer = None
        self._due = True
        self._send()

    def _send(self) -> None:
        """Send off what is due while there is room in flight."""
        while self._due and len(self._in_flight) < IN_FLIGHT_MAX:
            batch = self._take()
            if batch:
                self._dispatch(batch)
            if not self._queue:
                self._due = False
        if self._queue:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._in_flight:
            self._idle.set()

    def _take(self) -> list[_Item]:
        """Return the oldest items that go together; those that nobody waits for any more are left out."""
        batch: list[_Item] = []
        rows = 0
        while self._queue:
            item = self._queue[0]
            if not item.answer.done():
                if batch and (item.run != batch[0].run or rows + item.rows > self._rows_max):
                    break
                batch.append(item)
                rows += item.rows
            self._queue.popleft()
            self._rows -= item.rows
        return batch

    def _drop_answered(self) -> None:
        while self._queue and self._queue[0].answer.done():
            self._rows -= self._queue.popleft().rows

    def _dispatch(self, batch: list[_Item]) -> None:
        loop = asyncio.get_running_loop()
        sent_ns = self._clock.elapsed_ns()
        for item in batch:
            metrics.BATCH_WAIT.observe((sent_ns - item.since_ns) / NS_PER_SECOND)
        metrics.BATCH_ROWS.observe(sum(item.rows for item in batch))
        self._in_flight.append(batch)

        def work() -> None:
            began_ns = self._clock.elapsed_ns()
            results: Sequence[Any] | Exception
            try:
                results = batch[0].run([item.staged for item in batch])
            except Exception as fault:
                results = fault
            seconds = (self._clock.elapsed_ns() - began_ns) / NS_PER_SECOND
            with suppress(RuntimeError):  # the loop has ended, and nobody waits
                loop.call_soon_threadsafe(self._finish, batch, results, seconds)

        self._worker.put(work)

    def _finish(self, batch: list[_Item], results: Sequence[Any] | Exception, seconds: float) -> None:
        self._in_flight.remove(batch)
        self._run_s = seconds
        metrics.BATCH_DURATION.observe(seconds)
        if not isinstance(results, Exception) and len(results) != len(batch):
            results = ValueError(f"{len(results)} results for {len(batch)} items")
        if isinstance(results, Exception):
            if not self._failing:  # once, not for each batch of a model that is broken
                logging.get(__name__).error("batch failed", items=len(batch), fault=repr(results))
            self._failing = True
            for item in batch:
                self._give_up(item, Fallback.FAILED)
        else:
            self._failing = False
            for item, result in zip(batch, results, strict=True):
                _answer(item, result)
        self._send()

    def _give_up(self, item: _Item, reason: Fallback) -> "asyncio.Future[Any]":
        if _answer(item, None):
            metrics.PREDICT_FALLBACKS.labels(reason.value).inc()
        return item.answer


def _answer(item: _Item, result: Any) -> bool:
    """Answer an item unless it has been, or whoever asked has left; return whether it was now."""
    if item.answer.done():
        return False
    item.answer.set_result(result)
    return True
