"""Catches up with the event log: what a kill lost, and what other processes were told, is counted here as well."""

import asyncio
from contextlib import suppress

import msgspec

from bidder.pending import PendingExposures
from dsp.cache.local import LocalUserStore
from dsp.events.schema import Notice, decode
from dsp.events.topics import Topic
from dsp.kernel import logging
from dsp.kernel.clock import Clock
from dsp.kernel.errors import UnavailableError
from dsp.stream.port import EventLog, Record

#: Few at a time, so that bids do not wait while records are decoded.
BATCH_RECORDS = 100
#: How often the log is read: by a process that counts all notices itself, and by one of several.
REPLAY_SECONDS = 20.0
SHARED_REPLAY_SECONDS = 0.5


class ExposureReplay:
    """Reads notices from the store's own position on, at the start and now and then, so that the position advances.

    Counting is harmless however often and in whatever order it is done, so what this process counted itself, what
    others did, and what a kill made it forget are simply counted again: impressions, and bids that have won.
    """

    def __init__(
        self,
        log: EventLog,
        users: LocalUserStore,
        pending: PendingExposures,
        clock: Clock,
        interval_seconds: float = REPLAY_SECONDS,
    ) -> None:
        self._log = log
        self._users = users
        self._pending = pending
        self._clock = clock
        self._interval_seconds = interval_seconds
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Catch up, then keep the position fresh."""
        await self.catch_up()
        self._task = asyncio.create_task(self._run(), name="exposures")

    async def stop(self) -> None:
        """Replay no more."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def catch_up(self) -> None:
        """Absorb everything up to the end of the log."""
        while True:
            batch = await self._log.read(Topic.NOTICES, self._users.position, BATCH_RECORDS)
            if batch.records:
                notices = list(filter(None, map(_notice, batch.records)))
                self._users.absorb(notices, batch.position)
                for notice in notices:
                    self._pending.hear(notice, self._clock.now_ms())
            if batch.end or not batch.records:
                return
            await asyncio.sleep(0)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_seconds)
            try:
                await self.catch_up()
            except UnavailableError as fault:
                logging.get(__name__).warning("exposures not replayed", fault=str(fault))


def _notice(record: Record) -> Notice | None:
    try:
        event = decode(record.value)
    except msgspec.DecodeError:
        return None  # the ledger reports what cannot be read
    return event if isinstance(event, Notice) else None
