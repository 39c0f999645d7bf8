"""The loop of the simulated day: time passes in jumps, in order, and threads do not exist."""

import asyncio
import threading
import time

import pytest

from dsp.kernel.clock import ManualClock
from loadtest.day.loop import run


def test_a_day_of_waiting_takes_no_time() -> None:
    clock = ManualClock(1_750_000_000_000)
    began = time.perf_counter()
    run(asyncio.sleep(86_400.0), clock)
    assert clock.now_ms() == 1_750_086_400_000
    assert time.perf_counter() - began < 10.0


def test_timers_fire_in_order_each_at_its_millisecond() -> None:
    clock = ManualClock(1_750_000_000_000)
    fired: list[tuple[str, int]] = []

    async def wait(name: str, seconds: float, times: int) -> None:
        for _ in range(times):
            await asyncio.sleep(seconds)
            fired.append((name, clock.now_ms() - 1_750_000_000_000))

    async def everything() -> None:
        await asyncio.gather(wait("third", 0.003, 33_333), wait("slow", 99.999, 1), wait("tenth", 0.1, 999))

    run(everything(), clock)
    assert [at_ms for _, at_ms in fired] == sorted(at_ms for _, at_ms in fired)
    assert [at_ms for name, at_ms in fired if name == "third"] == list(range(3, 100_000, 3))
    assert [at_ms for name, at_ms in fired if name == "tenth"] == list(range(100, 100_000, 100))
    assert ("slow", 99_999) in fired


def test_work_for_threads_is_done_here_and_now() -> None:
    clock = ManualClock()

    async def ask() -> tuple[int, str]:
        begun_ms = clock.now_ms()
        name = await asyncio.to_thread(lambda: threading.current_thread().name)
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        return clock.now_ms() - begun_ms, name

    assert run(ask(), clock) == (0, threading.current_thread().name)


def test_waiting_for_nothing_is_a_fault_and_not_for_ever() -> None:
    async def wait() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="no timer"):
        run(wait(), ManualClock())


def test_who_waits_until_a_moment_has_passed_is_not_asked_to_wait_for_no_time() -> None:
    """A deadline a rounding error away must not keep the clock from moving."""
    clock = ManualClock()

    async def wait() -> float:
        loop = asyncio.get_running_loop()
        deadline, turns = loop.time() + 0.001 + 1e-12, 0
        while loop.time() < deadline:
            await asyncio.sleep(deadline - loop.time())
            turns += 1
        return turns

    assert run(wait(), clock) <= 2
