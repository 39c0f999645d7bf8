"""Waits for a store's answer, and no longer than is allowed."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

_Answer = TypeVar("_Answer")


async def at_most(timeout_ms: float, awaitable: Awaitable[_Answer]) -> _Answer:
    """Return what is awaited; after the time cancel it without waiting for that to succeed, and raise TimeoutError."""
    task = asyncio.ensure_future(awaitable)
    try:
        done, _ = await asyncio.wait((task,), timeout=max(timeout_ms, 0.0) / 1_000)
        if not done:
            raise TimeoutError(f"no answer within {timeout_ms:.0f} ms")
        return task.result()
    finally:
        task.cancel()
