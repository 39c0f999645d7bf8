"""Catches up with the event log: what a kill lost, and what other processes were told, is counted here as well.

Where all processes share one store of users, one of them reads the log into it, and the others only hear who has won.
"""

import asyncio

from bidder.pending import PendingExposures
from dsp.cache.port import ReplayedUserStore
from dsp.events.schema import Notice, decode_as
from dsp.events.topics import Topic
from dsp.kernel import logging
from dsp.kernel.clock import Clock
from dsp.kernel.errors import UnavailableError
from dsp.kernel.lifecycle import cancel
from dsp.stream.port import EventLog, Position

#: Few at a time, so that bids do not wait while records are decoded.
BATCH_RECORDS = 100
#: How often the log is read: by a process that counts all notices itself, and by one of several.
REPLAY_SECONDS = 20.0
SHARED_REPLAY_SECONDS = 0.5


class ExposureReplay:
    """Reads notices from where the store says, at the start and now and then, so that its position advances.

    Counting is harmless however often and in whatever order it is done, so what this process counted itself, what
    others did, and what a kill made it forget are simply counted again: impressions, and bids that have won.
    """

    def __init__(
        self,
        log: EventLog,
        users: ReplayedUserStore,
        pending: PendingExposures,
        clock: Clock,
        interval_seconds: float = REPLAY_SECONDS,
    ) -> None:
        self._log = log
        self._users = users
        self._pending = pending
        self._clock = clock
        self._interval_seconds = interval_seconds
        self._heard: Position | None = None
        self._away = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Catch up, then keep the position fresh. What is away keeps nobody from starting."""
        await self._try()
        self._task = asyncio.create_task(self._run(), name="exposures")

    async def stop(self) -> None:
        """Replay no more."""
        await cancel(self._task)

    async def catch_up(self) -> None:
        """Read everything up to the end of the log, into the users' records unless another process does that."""
        known, ours = await self._users.begin_replay()
        position = known if ours or self._heard is None else self._heard
        while True:
            batch = await self._log.read(Topic.NOTICES, position, BATCH_RECORDS)
            if batch.records:
                decoded = (decode_as(Notice, record.value) for record in batch.records)
                notices = [notice for notice in decoded if notice is not None]
                position = batch.position
                if ours and (waiting := self._users.absorb(notices, position)) is not None:
                    await waiting
                for notice in notices:
                    self._pending.hear(notice, self._clock.now_ms())
            if batch.end or not batch.records:
                break
            await asyncio.sleep(0)
        self._heard = position
        if ours and (position != known or not known):
            await self._users.end_replay(position)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_seconds)
            await self._try()

    async def _try(self) -> None:
        try:
            await self.catch_up()
        except UnavailableError as fault:
            if not self._away:
                logging.get(__name__).warning("exposures not replayed", fault=str(fault))
            self._away = True
        else:
            self._away = False
