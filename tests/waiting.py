"""Waits for what comes about by itself: tests neither sleep for luck nor hurry a busy machine."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_POLL_SECONDS = 0.01
_POLL_PROCESSES_SECONDS = 0.05


async def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Poll an (async) condition until it holds; return what it returned."""
    async with asyncio.timeout(seconds):
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(_POLL_SECONDS)


def eventually(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Poll a condition that other processes bring about until it holds."""
    give_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up_at, "did not come about in time"
        time.sleep(_POLL_PROCESSES_SECONDS)


def alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
