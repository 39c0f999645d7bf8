"""Gathers what concurrent requests ask in one turn of the event loop into one call."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from dsp.kernel.errors import UnavailableError

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


class Gathering(Generic[_Item, _Answer]):
    """One call at a time for each turn; while `calls_max` are under way, what is asked waits for one to end.

    So a quick server is asked at once, and a slow one in ever larger batches, of at most `batch_max`. Beyond
    `waiting_max` an item is refused with UnavailableError.
    """

    def __init__(
        self,
        send: Callable[[Sequence[_Item]], Awaitable[Sequence[_Answer]]],
        calls_max: int,
        batch_max: int,
        waiting_max: int,
    ) -> None:
        self._send = send
        self._calls_max = calls_max
        self._batch_max = batch_max
        self._waiting_max = waiting_max
        self._waiting: list[tuple[_Item, asyncio.Future[_Answer]]] = []
        self._calls: set[asyncio.Task[None]] = set()
        self._due = False

    def ask(self, item: _Item) -> asyncio.Future[_Answer]:
        """Return what will have the answer; to cancel it keeps an item from being sent that has not left yet."""
        if len(self._waiting) >= self._waiting_max:
            raise UnavailableError("too many calls are waiting")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_Answer] = loop.create_future()
        self._waiting.append((item, answer))
        if not self._due and len(self._calls) < self._calls_max:
            self._due = True
            loop.call_soon(self._leave)
        return answer

    async def close(self) -> None:
        """Give what has left its time, and refuse what waits."""
        waiting, self._waiting = self._waiting, []
        for _, answer in waiting:
            answer.cancel()
        if self._calls:
            await asyncio.wait(self._calls)

    def _leave(self) -> None:
        self._due = False
        while self._waiting and len(self._calls) < self._calls_max:
            batch, self._waiting = self._waiting[: self._batch_max], self._waiting[self._batch_max :]
            batch = [one for one in batch if not one[1].done()]  # who asked has given up
            if batch:
                call = asyncio.create_task(self._call(batch))
                self._calls.add(call)
                call.add_done_callback(self._end)

    def _end(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._leave()

    async def _call(self, batch: Sequence[tuple[_Item, asyncio.Future[_Answer]]]) -> None:
        try:
            found = await self._send([item for item, _ in batch])
        except Exception as fault:
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(fault)
            return
        for (_, answer), one in zip(batch, found, strict=True):
            if not answer.done():
                answer.set_result(one)
