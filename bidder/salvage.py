"""This process's place on disk for what the event log does not take, and what others have left in theirs.

A place is named after its process and locked while that lives. One that nobody holds, because its process was killed or
replaced, is emptied by whichever process of the host finds it.
"""

import asyncio
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from bidder.spill import DRAIN_RECORDS_MAX, Spill
from dsp.events.topics import Topic
from dsp.kernel import logging
from dsp.kernel.clock import Clock
from dsp.kernel.errors import ConflictError, UnavailableError
from dsp.kernel.lifecycle import cancel
from dsp.kernel.locks import lock
from dsp.stream.local import LocalEventLog
from dsp.stream.port import EventLog

#: How often is looked for places that nobody holds.
LOOK_SECONDS = 10.0
_LOCK = "lock"


class Place:
    """A locked directory with an embedded event log in it, the `store`.

    Raises, on opening:
        ConflictError: another process holds it.
        UnavailableError: the disk takes nothing.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self.store = LocalEventLog(path, clock)
        self._lock: int | None = None

    async def open(self) -> None:
        """Lock the directory, and open its store."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = lock(self.path / _LOCK)
            held = self._lock is not None and os.path.samestat(os.fstat(self._lock), os.stat(self.path / _LOCK))
        except FileNotFoundError:
            held = False  # it was cleared away meanwhile
        except OSError as fault:
            self._unlock()
            raise UnavailableError(f"{self.path}: {fault}") from fault
        if not held:
            self._unlock()
            raise ConflictError(f"{self.path} is another process's")
        await self.store.open()

    async def close(self) -> None:
        """Close the store, and let others have the directory."""
        await self.store.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class Salvage:
    """Empties the places beside our own that nobody holds, at the start and now and then."""

    def __init__(self, own: Path, clock: Clock, log: EventLog, topics: Iterable[Topic]) -> None:
        self._own = own
        self._clock = clock
        self._log = log
        self._topics = tuple(topics)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._run(), name="salvage")

    async def stop(self) -> None:
        """Look no more."""
        await cancel(self._task)

    async def look(self) -> None:
        """Hand what is in abandoned places to the event log.

        What it does not take stays where it is. A place that cannot be read does not hold up the others.

        Raises:
            UnavailableError: something stays for another try.
        """
        fault: UnavailableError | None = None
        for path in sorted(self._own.parent.iterdir()):
            if path == self._own or not path.is_dir():
                continue
            try:
                await self._hand_over(Place(path, self._clock))
            except ConflictError:
                continue
            except UnavailableError as one:
                fault = one
        if fault is not None:
            raise fault

    async def _hand_over(self, place: Place) -> None:
        await place.open()
        try:
            moved = sum([await self._empty(Spill(place.store, topic, 0)) for topic in self._topics])
            shutil.rmtree(place.path)
        finally:
            await place.close()
        logging.get(__name__).warning("records of another process handed over", place=place.path.name, records=moved)

    async def _empty(self, spill: Spill) -> int:
        await spill.open()
        found = spill.depth
        while spill.depth:
            await spill.drain(self._log, DRAIN_RECORDS_MAX)
        return found

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except Exception as fault:
                logging.get(__name__).warning("not handed over, to be tried again", fault=repr(fault))
            await asyncio.sleep(LOOK_SECONDS)
