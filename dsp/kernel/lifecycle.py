"""Start in order, stop in reverse, and end on SIGTERM, SIGINT or the supervisor's death."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum

from dsp.kernel import logging
from dsp.kernel.errors import ConfigError, DspError

#: Set by the supervisor to a pipe's file descriptor; end of file there means that the supervisor has died.
PARENT_PIPE = "DSPCTL_PARENT_FD"
#: Of the answers at /healthz and /readyz: which process gave it, as another one may have its port.
PROCESS_HEADER = "X-Process-Id"


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the event loop that serves; None is asyncio's own, where there is no other."""
    try:
        from uvloop import new_event_loop
    except ImportError:  # there is none on this platform; asyncio's own loop serves as well, more slowly
        return None
    return new_event_loop


def run(main: Coroutine[object, object, None], factory: Callable[[], asyncio.AbstractEventLoop] | None = None) -> int:
    """Run a process; return its exit status, 1 where a fault ended it, which is then a line of its log.

    Raises:
        ConfigError: what the settings name is not as it should be, which is for whoever wrote them.
    """

    async def watched() -> int:
        try:
            await main
        except ConfigError:
            raise
        except Exception as fault:
            expected = isinstance(fault, DspError | OSError)
            logging.get(__name__).critical("ended by a fault", fault=str(fault) or repr(fault), exc_info=not expected)
            return 1
        return 0

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(watched())


async def cancel(task: asyncio.Task[None] | None) -> None:
    """Cancel a task and wait until it has ended; harmless where there is none."""
    if task is not None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Phase(Enum):
    """Where a process is in its life; only `READY` makes `/readyz` answer 200."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


class Lifecycle:
    """Runs the start steps in order and the stop steps of those started in reverse order."""

    def __init__(self) -> None:
        self.phase = Phase.STARTING
        self._stops: list[Callable[[], Awaitable[None]]] = []
        self._stopping = asyncio.Event()

    async def start(self, start: Awaitable[object], stop: Callable[[], Awaitable[None]]) -> None:
        """Await one start step, and remember how to undo it."""
        await start
        self._stops.append(stop)

    def ready(self) -> None:
        """Declare the process ready to serve."""
        self.phase = Phase.READY

    def request_stop(self) -> None:
        """Ask the process to drain and stop; safe to call from a signal handler, and twice."""
        self._stopping.set()

    def stop_requested(self) -> bool:
        """Return whether the end was asked for."""
        return self._stopping.is_set()

    async def sleep(self, seconds: float) -> None:
        """Sleep, but no longer than until the end is asked for."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), max(seconds, 0.0))

    async def wait_for_stop(self) -> None:
        """Return once a signal, the supervisor's death or `request_stop` asks for the end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.request_stop)
        pipe = os.environ.get(PARENT_PIPE)
        if pipe is not None:
            loop.add_reader(int(pipe), self.request_stop)
        await self._stopping.wait()
        if pipe is not None:
            loop.remove_reader(int(pipe))
        self.phase = Phase.DRAINING

    async def stop(self) -> None:
        """Run the stop steps in reverse order; one that fails does not keep the others from running."""
        faults: list[Exception] = []
        while self._stops:
            try:
                await self._stops.pop()()
            except Exception as fault:
                faults.append(fault)
        self.phase = Phase.STOPPED
        if faults:
            raise ExceptionGroup("while stopping", faults)
