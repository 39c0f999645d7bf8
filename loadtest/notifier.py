"""Sends notices as exchanges and browsers do: delayed, sometimes twice, retried until acknowledged, sometimes never."""

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from dsp.kernel.money import Micros
from loadtest.client import Client
from loadtest.draw import Draw
from loadtest.truth import NoticeKey, Sent, Truth

_ACCEPTED = frozenset({200, 202, 204, 302, 303, 307})
_RETRY_SECONDS = (0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Manners:
    """How carelessly notices are sent."""

    duplicate_share: float = 0.08
    lost_share: float = 0.015
    render_share: float = 0.97
    click_delay_seconds: tuple[float, float] = (0.3, 2.0)
    conversion_delay_seconds: tuple[float, float] = (0.5, 4.0)
    render_delay_seconds: tuple[float, float] = (0.05, 0.4)


class Notifier:
    """Owns the notices in flight."""

    def __init__(self, client: Client, truth: Truth, seed: int, manners: Manners | None = None) -> None:
        self._client = client
        self._truth = truth
        self._seed = seed
        self.manners = manners or Manners()
        self._tasks: set[asyncio.Task[None]] = set()
        self._fault: BaseException | None = None
        self._ending = False

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run one chain of notices in the background."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def send(self, key: NoticeKey, url: str, cost_micros: Micros = 0) -> str | None:
        """Send one notice until it is acknowledged.

        Returns the answer's Location ("" without one), or None when it was never sent, refused or given up.
        """
        draw = Draw("notice", self._seed, *key)
        if draw.chance(self.manners.lost_share):
            self._truth.never_sent.add(key)
            return None
        sent = self._truth.notices.setdefault(key, Sent(cost_micros))
        location = await self._until_acknowledged(sent, url)
        if draw.chance(self.manners.duplicate_share):
            for _ in range(1 + draw.integer(2)):
                self.spawn(self._again(sent, url, draw.between(0.0, 1.5)))
        return location

    async def settle(self, timeout_seconds: float) -> bool:
        """Wait for all notices in flight; return whether all ended within the time. Raises what a chain raised."""
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        while self._tasks and asyncio.get_running_loop().time() < deadline:
            await asyncio.wait(self._tasks, timeout=deadline - asyncio.get_running_loop().time())
        self.check()
        return not self._tasks

    async def close(self) -> None:
        """Give up what is still in flight."""
        self._ending = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def check(self) -> None:
        """Raise the first fault of a background chain: a fault of the simulator itself."""
        if self._fault is not None:
            raise self._fault

    async def _again(self, sent: Sent, url: str, delay_seconds: float) -> None:
        await asyncio.sleep(delay_seconds)
        await self._until_acknowledged(sent, url)

    async def _until_acknowledged(self, sent: Sent, url: str) -> str | None:
        attempt = 0
        while not self._ending:
            sent.attempts += 1
            status, location = await self._get(url)
            if status in _ACCEPTED:
                sent.acknowledged += 1
                sent.acknowledged_at = sent.acknowledged_at or time.perf_counter()
                return location
            if status is not None and 400 <= status < 500:
                return None  # saying it again will not help
            await asyncio.sleep(_RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)])
            attempt += 1
        return None

    async def _get(self, url: str) -> tuple[int | None, str]:
        try:
            answer = await self._client.get(url)
        except OSError:
            return None, ""
        return answer.status, answer.location

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._fault = self._fault or task.exception()
