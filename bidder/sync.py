"""Keeps the lease book supplied: about once a second asks for money, returns what is idle, and learns what was settled.

Fails closed: without a successful sync the book stops reserving by itself, and bidding stops.
"""

import asyncio
from typing import TypeVar

from dsp.cache.port import LeaseStore
from dsp.kernel import logging, metrics
from dsp.kernel.clock import MS_PER_SECOND, NS_PER_MS, Clock, monotonic_ms
from dsp.kernel.errors import ClockError, ConflictError, UnavailableError
from dsp.kernel.lifecycle import cancel
from dsp.ledger.lease import LeaseBook, Steps

#: A line item's first demand is not kept waiting longer than this for a lease.
EARLY_SECONDS = 0.1
_T = TypeVar("_T")


class LeaseSync:
    """Joins the process's lease book with the lease store."""

    def __init__(self, store: LeaseStore, book: LeaseBook, holder: str, interval_ms: int, clock: Clock) -> None:
        self._store = store
        self._book = book
        self._holder = holder
        self._interval_seconds = interval_ms / MS_PER_SECOND
        self._clock = clock
        self._registered = False
        self._result = ""
        self._task: asyncio.Task[None] | None = None
        self._syncing = asyncio.Lock()
        for result in ("synced", "fenced", "clock", "unavailable", "failed"):
            metrics.LEASE_SYNCS.labels(result)

    async def start(self) -> None:
        """Register, and begin to sync."""
        await self.sync()
        self._task = asyncio.create_task(self._run(), name="lease-sync")

    async def stop(self) -> None:
        """Stop syncing and return all money that no bid has reserved."""
        if self._task is not None:
            async with self._syncing:  # one cut off might have been granted money that nobody would return
                await cancel(self._task)
        await self.sync(final=True)

    async def sync(self, final: bool = False) -> bool:
        """Sync once; return whether it succeeded. Faults are counted and left to the next one."""
        try:
            async with self._syncing:
                await self._sync(final)
        except ConflictError:
            # Another process has taken over our name, or we were silent for too long: start anew under a new epoch.
            self._registered = False
            result = "fenced"
        except ClockError as fault:
            if self._result != "clock":
                logging.get(__name__).error("lease store refuses our clock", fault=str(fault))
            result = "clock"
        except UnavailableError as fault:
            if self._result != "unavailable":  # the metric counts the others
                logging.get(__name__).warning("lease store away", fault=str(fault))
            result = "unavailable"
        except Exception as fault:
            logging.get(__name__).error("lease sync failed", fault=repr(fault))
            result = "failed"
        else:
            result = "synced"
        self._result = result
        metrics.LEASE_SYNCS.labels(result).inc()
        return result == "synced"

    def report(self) -> None:
        """Set the gauges of leased money."""
        metrics.LEASE_FREE.set(self._book.free_micros)
        metrics.LEASE_RESERVED.set(self._book.reserved_micros)
        if self._book.watermark_ms:
            # A log whose clock was once ahead of ours stays ahead, and would look up to date while nothing moves.
            now_ms = max(self._clock.now_ms(), self._book.ledger_ms(monotonic_ms(self._clock)))
            metrics.LEASE_WATERMARK_AGE.set((now_ms - self._book.watermark_ms) / MS_PER_SECOND)

    async def _sync(self, final: bool) -> None:
        if not self._registered:
            if final:
                return
            self._book.adopt(await self._store.register(self._holder, self._clock.now_ms()))
            self._registered = True
        elapsed_ms = monotonic_ms(self._clock)
        wants = await _in_turns(self._book.wanting(elapsed_ms))
        returns = await _in_turns(self._book.returning(elapsed_ms, everything=final))
        epoch = self._book.epoch
        now_ms, promise_ms = self._clock.now_ms(), self._book.expires_ms_max
        report = await self._store.sync(epoch, now_ms, [] if final else wants, returns, promise_ms)
        await _in_turns(self._book.applying(report, monotonic_ms(self._clock)))

    async def _run(self) -> None:
        while True:
            due = self._clock.elapsed_ns() + self._interval_seconds * NS_PER_MS * MS_PER_SECOND
            # Polled because the book is pure: it has no event to wait for.
            while self._clock.elapsed_ns() < due and not self._book.begun:  # noqa: ASYNC110
                await asyncio.sleep(min(EARLY_SECONDS, self._interval_seconds))
            await self.sync()


async def _in_turns(steps: Steps[_T]) -> _T:
    """Return what comes of steps between which the event loop has its turn: thousands of leases take milliseconds."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: _T = end.value
            return found
        await asyncio.sleep(0)
