"""Work done side by side in processes, which never outlive the one that asked for it."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from threading import Thread
from typing import TypeVar

from dsp.kernel.errors import DspError

T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """Return how many processes this one may have run at the same instant."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def side_by_side(work: Callable[[T], R], items: Sequence[T], processes: int) -> Iterator[R]:
    """Yield what `work` makes of each item, in their order.

    Whatever ends this early, an error or Ctrl-C, ends the processes at once.

    Args:
        work: a function that can be pickled, as items and results can.
        items: worth a process each, which takes a second to start.
        processes: how many at most; with one all is done here.

    Raises:
        DspError: a process was killed.
    """
    processes = min(processes, len(items))
    if processes < 2:
        yield from map(work, items)
        return
    # Not forked: a copy of a process with threads (of a progress bar, of BLAS) may wait for a lock that nobody holds.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _begin) as pool:
        try:
            yield from pool.map(work, items)
        except BaseException as fault:
            for process in multiprocessing.active_children():
                process.terminate()
            if isinstance(fault, BrokenProcessPool):
                raise DspError("a process was killed before it was done; had it memory enough?") from fault
            raise


def _begin() -> None:
    """Leave Ctrl-C to the process that asked for the work, and end when it has ended, however it did."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        Thread(target=_end_after, args=(parent.join,), daemon=True).start()


def _end_after(wait: Callable[[], None]) -> None:
    wait()
    os._exit(1)
