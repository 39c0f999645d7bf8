"""Sums up the whole book now and then, in a thread: it takes longer as the book grows, and the ledger must get on."""

import asyncio

from sqlalchemy.orm import Session, sessionmaker

from dsp.kernel import logging, metrics
from dsp.kernel.clock import NS_PER_SECOND, Clock
from dsp.kernel.errors import UnavailableError
from dsp.kernel.lifecycle import cancel
from dsp.store.book import BookRepository

INTERVAL_SECONDS = 60.0
#: An audit that takes long is followed by a pause so many times as long.
PAUSES = 20.0


class Audit:
    """A task beside the ledger's; `views` are read-only sessions."""

    def __init__(self, views: sessionmaker[Session], clock: Clock) -> None:
        self._views = views
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, with an audit at once."""
        self._task = asyncio.create_task(self._run(), name="audit")

    async def stop(self) -> None:
        """End; harmless where it was not started. A sum under way is left to its thread and a statement's time-out."""
        await cancel(self._task)

    async def _run(self) -> None:
        while True:
            began_ns = self._clock.elapsed_ns()
            try:
                metrics.LEDGER_IMBALANCE.set(await asyncio.to_thread(self._sum))
            except UnavailableError as fault:  # also of a book so large that the database gives up
                logging.get(__name__).warning("no audit", fault=str(fault))
            took_seconds = (self._clock.elapsed_ns() - began_ns) / NS_PER_SECOND
            await asyncio.sleep(max(INTERVAL_SECONDS, PAUSES * took_seconds))

    def _sum(self) -> int:
        with self._views() as session:
            return BookRepository(session).imbalance()
