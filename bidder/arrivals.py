"""Since when what is read has waited: an overloaded process must know it, to say no while that is still of use.

The kernel does not tell when bytes came. But an event loop takes up all that is there at once and hands it out piece by
piece: what is handed out last has waited for all before it. What came while the loop was busy with the turn before may
have waited for up to that turn as well; that is not counted, and short where turns are kept short (bidder.admission).
"""

import asyncio
from time import perf_counter_ns

#: So long after the last piece the loop has slept, or had other things to do.
_SLEPT_NS = 500_000


class Arrivals:
    """Follows the turns of a loop. A turn of one piece, after which the loop sleeps, costs next to nothing."""

    __slots__ = ("_began_ns", "_done_ns", "_loop", "_within")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._within = False  # a turn whose end will be told
        self._began_ns = self._done_ns = 0

    def read(self) -> int:
        """Return since when what was just read is known to have been there, on the monotonic clock."""
        if self._within:
            return self._began_ns
        self._began_ns = perf_counter_ns()
        if self._began_ns - self._done_ns < _SLEPT_NS:  # more may follow: told when all has been handed out
            self._within = True
            self._loop.call_soon(self._over)
        return self._began_ns

    def done(self) -> None:
        """Note that what was read has been dealt with, as far as that goes without waiting."""
        self._done_ns = perf_counter_ns()

    def _over(self) -> None:
        self._within = False
