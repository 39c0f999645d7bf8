"""Coroutines without tasks: at once while nothing is waited for, in order, and on when a wait ends."""

import asyncio

import pytest

from bidder import eager


async def test_what_waits_for_nothing_is_over_at_once() -> None:
    done: list[int] = []

    async def inner() -> int:
        return 7

    async def work() -> None:
        done.append(await inner())

    eager.start(work(), asyncio.get_running_loop())
    assert done == [7]


async def test_it_goes_on_when_what_it_waits_for_is_there() -> None:
    loop = asyncio.get_running_loop()
    first, second, over = loop.create_future(), loop.create_future(), loop.create_future()
    seen: list[object] = []

    async def work() -> None:
        seen.append(await first)
        await asyncio.sleep(0)
        try:
            await second
        except ValueError as fault:
            seen.append(str(fault))
        seen.append(await asyncio.to_thread(lambda: "thread"))
        over.set_result(None)

    eager.start(work(), loop)
    assert not seen
    first.set_result(1)
    second.set_exception(ValueError("two"))
    await asyncio.wait_for(over, 3.0)
    assert seen == [1, "two", "thread"]


async def test_an_exception_is_the_callers() -> None:
    async def work() -> None:
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        eager.start(work(), asyncio.get_running_loop())
