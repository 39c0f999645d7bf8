"""An event loop on a clock that jumps from one timer to the next: a day passes as fast as its work can be done.

What is asked of threads is done at once, so that nothing depends on how fast the machine is.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple

from dsp.kernel.clock import MS_PER_SECOND, ManualClock

_T = TypeVar("_T")
_Arguments = TypeVarTuple("_Arguments")


def run(work: Coroutine[Any, Any, _T], clock: ManualClock) -> _T:
    """Run to its end what waits for nothing but time."""
    with asyncio.Runner(loop_factory=lambda: SimulatedLoop(clock)) as runner:
        return runner.run(work)


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Keeps the time of `clock`, in whole milliseconds since the loop was made. There are no sockets and no threads."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._began_ms = clock.now_ms()
        super().__init__(_Jump(clock))

    def time(self) -> float:
        """Return the simulated seconds since the loop was made."""
        return (self._clock.now_ms() - self._began_ms) / MS_PER_SECOND

    def call_at(
        self,
        when: float,
        callback: Callable[[*_Arguments], object],
        *args: *_Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call at an instant, to the millisecond; what is not due yet is due in a millisecond at the earliest."""
        at_ms = round(when * MS_PER_SECOND)
        if when > self.time():
            at_ms = max(at_ms, self._clock.now_ms() - self._began_ms + 1)
        return super().call_at(at_ms / MS_PER_SECOND, callback, *args, context=context)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*_Arguments], _T], *args: *_Arguments
    ) -> asyncio.Future[_T]:
        """Do the work now, in this thread."""
        done: asyncio.Future[_T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as fault:
            done.set_exception(fault)
        return done


class _Jump(selectors.DefaultSelector):
    """Instead of waiting for sockets, lets the time pass."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("everything waits for something that no timer will bring")
        self._clock.advance(round(timeout * MS_PER_SECOND))
        return []
