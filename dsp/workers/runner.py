"""Runs one worker process: opens what its job needs, repeats the job's step, retries with back-off, stops on request.

What a step does lives in the worker modules. A failed step is counted, logged and tried again, never skipped. What no
retry can mend is a record that nobody can use: workers park those (dsp.workers.dead_letters) and go on.
"""

import asyncio
import faulthandler
import sys
from collections.abc import Mapping
from typing import Protocol, cast

import msgspec
from prometheus_client import start_http_server

from dsp.kernel import logging, metrics, process
from dsp.kernel.config import Platform
from dsp.kernel.errors import DspError, UnavailableError
from dsp.kernel.lifecycle import Lifecycle
from dsp.workers.config import METERED, WorkersConfig

#: A step still running so long after a stop was asked for is cancelled; its work was not committed and is done again.
STOP_SECONDS_MAX = 5.0


class Job(Protocol):
    """What a worker does. A step that raises must have left nothing half done that its repetition would not mend."""

    async def open(self) -> None:
        """Connect, and read back the state that an earlier run left."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...

    async def step(self) -> bool:
        """Do one bounded piece of work, within about a second; return whether more is waiting already."""
        ...


def sections(settings: Mapping[str, msgspec.Struct]) -> tuple[Platform, WorkersConfig]:
    """Return the two tables that workers read."""
    return cast(Platform, settings["platform"]), cast(WorkersConfig, settings["workers"])


async def run(name: str, settings: Mapping[str, msgspec.Struct], job: Job, interval_ms: int = 0) -> None:
    """Run a worker until a signal, the supervisor's death, or cancellation ends it.

    Steps that report nothing waiting are followed by the rest of `interval_ms`.
    """
    platform, workers = sections(settings)
    logging.configure(name, platform.log_level)
    process.describe(settings)
    lifecycle = Lifecycle()
    stop = asyncio.create_task(lifecycle.wait_for_stop())
    loop = asyncio.create_task(_work(name, workers, job, interval_ms, lifecycle))
    try:
        await asyncio.wait({stop, loop}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        lifecycle.request_stop()
        _, late = await asyncio.wait({loop}, timeout=STOP_SECONDS_MAX)
        for task in late:
            task.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        faulthandler.cancel_dump_traceback_later()
        await lifecycle.stop()
        stop.cancel()
    if loop.done() and not loop.cancelled():
        loop.result()  # a fault of the loop itself ends the process, and the supervisor starts it anew


async def _work(name: str, workers: WorkersConfig, job: Job, interval_ms: int, lifecycle: Lifecycle) -> None:
    log = logging.get(__name__)
    _serve_metrics(name, workers)
    metrics.BATCHES_FAILED.labels(name)  # so that the first fault is an increase
    retry_ms = workers.retry_ms_min
    opened = False
    while not lifecycle.stop_requested():
        _expect_the_next_within(workers.hang_seconds)
        began = asyncio.get_running_loop().time()
        try:
            if not opened:
                await lifecycle.start(job.open(), job.close)
                opened = True
                lifecycle.ready()
                log.info("worker started")
            more = await job.step()
            retry_ms = workers.retry_ms_min
            metrics.WORKER_STEP.labels(name).set_to_current_time()
        except Exception as fault:
            metrics.BATCHES_FAILED.labels(name).inc()
            expected = isinstance(fault, DspError) and fault.retriable
            log.warning("batch failed, to be tried again", fault=repr(fault), retry_ms=retry_ms, exc_info=not expected)
            await lifecycle.sleep(retry_ms / 1_000)
            retry_ms = min(2 * retry_ms, workers.retry_ms_max)
            continue
        # Even a step that never waits must let signals through.
        wait = 0.0 if more else began + interval_ms / 1_000 - asyncio.get_running_loop().time()
        await (lifecycle.sleep(wait) if wait > 0.0 else asyncio.sleep(0))
    log.info("worker stopping")


def _expect_the_next_within(seconds: int) -> None:
    """End the process if this is not called again in time; in C, as Python may be what hangs.

    Nothing is lost by that: what was not committed is done again.
    """
    if seconds:
        faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or 2)


def _serve_metrics(name: str, workers: WorkersConfig) -> None:
    if not workers.metrics_port_base:
        return
    port = workers.metrics_port_base + METERED.index(name)
    try:
        start_http_server(port, addr=workers.metrics_host)
    except OSError as fault:
        raise UnavailableError(f"cannot listen on {workers.metrics_host}:{port}: {fault.strerror}") from fault
