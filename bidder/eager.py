"""Runs coroutines without tasks: at once up to their first wait, then on from wherever that ends."""

import asyncio
from collections.abc import Coroutine
from typing import Any


def start(work: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> None:
    """Run `work` to its end; its first steps are over when this returns.

    A task costs its making and a turn of the loop, which most requests, having nothing to wait for, need not pay. In
    exchange `work` cannot be cancelled, must handle its own exceptions, and has no current task: `asyncio.timeout`
    is not for it.
    """

    try:
        waits_for = work.send(None)
    except StopIteration:
        return
    _follow(work, loop, waits_for)


def _follow(
    work: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop, waits_for: asyncio.Future[Any] | None
) -> None:
    def step(_: object = None) -> None:
        start(work, loop)

    if waits_for is None:  # asyncio.sleep(0)
        loop.call_soon(step)
    else:
        # The mark by which a future tells that it was awaited, not merely yielded; whoever waits takes it off.
        waits_for._asyncio_future_blocking = False
        waits_for.add_done_callback(step)
