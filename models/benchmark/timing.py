"""How fast calls are: one after the other, and through the batcher by more clients than it can keep up with."""

import asyncio
from collections.abc import Callable, Sequence
from time import perf_counter_ns, process_time_ns
from typing import Any, NamedTuple

import numpy as np

from dsp.kernel.clock import MS_PER_SECOND, NS_PER_SECOND, SystemClock
from models.serving.batcher import IN_FLIGHT_MAX, Batcher, Run, ThreadWorker

_NS_PER_US = 1_000
_PATIENCE_MS = 60_000.0
_WAIT_MS = 1.0
_CALLS_MIN = 5


class Pace(NamedTuple):
    """Rows a second, how long one call or request took in microseconds, and what a row cost all threads together.

    Where others use the machine, the last is the figure to compare by.
    """

    rows_per_s: float
    p50_us: float
    p99_us: float
    cpu_us_per_row: float


def calls(call: Callable[[], object], rows: int, seconds: float) -> Pace:
    """Call again and again for so long; `rows` is what one call does. The first call is not counted."""
    call()
    taken: list[int] = []
    cpu_ns = process_time_ns()
    began_ns = now_ns = perf_counter_ns()
    end_ns = began_ns + int(seconds * NS_PER_SECOND)
    while now_ns < end_ns or len(taken) < _CALLS_MIN:
        before_ns = now_ns
        call()
        now_ns = perf_counter_ns()
        taken.append(now_ns - before_ns)
    return _pace(rows * len(taken), now_ns - began_ns, process_time_ns() - cpu_ns, taken)


async def batched(
    run: Run, items: Sequence[Any], rows: int, rows_max: int, seconds: float, clients: int | None = None
) -> Pace:
    """Submit items of `rows` rows, each client its own again and again; by default enough to keep batches full."""
    batcher = Batcher(rows_max, _WAIT_MS, rows_max * (IN_FLIGHT_MAX + 4), SystemClock(), ThreadWorker())
    await batcher.start()
    taken: list[int] = []

    async def client(staged: Any) -> None:
        now_ns = perf_counter_ns()
        while now_ns < end_ns or not taken:
            before_ns = now_ns
            if await batcher.submit(run, staged, rows, _PATIENCE_MS) is None:
                raise RuntimeError("the batcher gave up on a request")
            now_ns = perf_counter_ns()
            taken.append(now_ns - before_ns)

    at_once = clients if clients is not None else (IN_FLIGHT_MAX + 1) * (rows_max // rows)
    cpu_ns = process_time_ns()
    began_ns = perf_counter_ns()
    end_ns = began_ns + int(seconds * NS_PER_SECOND)
    await asyncio.gather(*(client(items[number % len(items)]) for number in range(at_once)))
    elapsed_ns, cpu_ns = perf_counter_ns() - began_ns, process_time_ns() - cpu_ns
    await batcher.stop(_PATIENCE_MS / MS_PER_SECOND)
    return _pace(rows * len(taken), elapsed_ns, cpu_ns, taken)


def median(paces: Sequence[Pace]) -> Pace:
    """Return the median of each figure."""
    return Pace(*np.median(np.array(paces), axis=0).tolist())


def _pace(rows: int, elapsed_ns: int, cpu_ns: int, taken: Sequence[int]) -> Pace:
    p50, p99 = np.percentile(np.array(taken) / _NS_PER_US, (50, 99)).tolist()
    return Pace(rows * NS_PER_SECOND / elapsed_ns, p50, p99, cpu_ns / _NS_PER_US / rows)
