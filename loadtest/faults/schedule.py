"""The queue of events in true time. Events of one instant happen in the order in which they were planned."""

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

from loadtest.faults.parts import World

Event = Callable[[], None]


class Schedule:
    """Moves true time from event to event."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._queue: list[tuple[int, int, Event]] = []
        self._order = count()

    def at(self, at_ms: int, what: Event) -> None:
        """Plan an event; one in the past happens next."""
        heappush(self._queue, (max(at_ms, self._world.at_ms), next(self._order), what))

    def after(self, ms: int, what: Event) -> None:
        """Plan an event so long from now."""
        self.at(self._world.at_ms + ms, what)

    def every(self, ms: int, what: Event) -> None:
        """Repeat an event from now on."""

        def again() -> None:
            what()
            self.after(ms, again)

        self.after(ms, again)

    def until(self, at_ms: int) -> None:
        """Let everything happen that is due until `at_ms`."""
        while self._queue and self._queue[0][0] <= at_ms:
            self._world.at_ms, _, what = heappop(self._queue)
            what()
        self._world.at_ms = at_ms
