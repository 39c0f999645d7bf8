"""Runs coroutines without tasks: at once up to their first wait, then on from wherever that ends, and in step.

Between two requests an auction goes over most of the processor's caches, so the same stage of several requests in a row
costs less than all stages of one request after the other's (cohort scheduling: Larus and Parkes, USENIX 2002).
"""

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any

from dsp.kernel import logging

#: More at once gain little, and who waits behind them is looked at for overload only when these are done.
COHORT_MAX = 8

_Work = Coroutine[Any, Any, None]


class Cohort:
    """Coroutines that were started, or have what they waited for, in one turn of the event loop.

    A task costs its making and a turn of the loop, which most requests, having nothing to wait for, need not pay. In
    exchange a coroutine run here cannot be cancelled and has no current task: `asyncio.timeout` is not for it.
    """

    def __init__(self) -> None:
        self._ready: list[_Work] = []
        self._due: asyncio.Handle | None = None
        #: Whether those that run now have company: then they yield None, for the others to come as far.
        self.several = False

    def start(self, work: _Work) -> None:
        """Run a coroutine from the end of this turn of the loop on, or when `run` is called."""
        self._ready.append(work)
        if self._due is None:
            self._due = asyncio.get_running_loop().call_soon(self.run)

    def run(self) -> None:
        """Run all that is ready now, `COHORT_MAX` at a time, until each waits for something or is over."""
        if self._due is None:
            return
        self._due.cancel()
        self._due = None
        ready, self._ready = self._ready, []
        for start in range(0, len(ready), COHORT_MAX):
            step = ready[start : start + COHORT_MAX]
            self.several = len(step) > 1
            while step:
                step = [work for work in step if self._pauses(work)]
        self.several = False

    def _pauses(self, work: _Work) -> bool:
        """Run a coroutine on; return whether it stops for the others, and for nothing else."""
        try:
            waits_for = work.send(None)
        except StopIteration:
            return False
        except Exception as fault:  # the others' requests are not to blame
            logging.get(__name__).error("unhandled", fault=repr(fault), exc_info=True)
            return False
        if waits_for is None:
            return True
        # The mark by which a future tells that it was awaited, not merely yielded; whoever waits takes it off.
        waits_for._asyncio_future_blocking = False
        waits_for.add_done_callback(partial(self._resume, work))
        return False

    def _resume(self, work: _Work, _: object) -> None:
        self.start(work)
