"""Coroutines without tasks: at once while nothing is waited for, in step, and on when a wait ends."""

import asyncio
import types
from collections.abc import Generator

import pytest

from bidder.cohort import COHORT_MAX, Cohort


@types.coroutine
def _others() -> Generator[None]:
    yield


class Walk:
    """Coroutines that note each step they take, with the others of their cohort."""

    def __init__(self) -> None:
        self.cohort = Cohort()
        self.seen: list[tuple[str, int]] = []
        self.company: set[bool] = set()

    async def walk(self, name: str, steps: int, wait: asyncio.Future[None] | None = None) -> None:
        if wait is not None:
            await wait
        for step in range(steps):
            self.seen.append((name, step))
            self.company.add(self.cohort.several)
            if self.cohort.several:
                await _others()


async def test_they_go_in_step_until_each_is_over() -> None:
    found = Walk()
    for name, steps in (("a", 3), ("b", 1), ("c", 2)):
        found.cohort.start(found.walk(name, steps))
    assert not found.seen  # until the turn's end, or until it is called for
    found.cohort.run()
    assert found.seen == [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("c", 1), ("a", 2)]
    assert found.company == {True}
    found.cohort.run()
    await asyncio.sleep(0)
    assert len(found.seen) == 6


async def test_one_alone_does_not_pause() -> None:
    found = Walk()
    found.cohort.start(found.walk("a", 3))
    found.cohort.run()
    assert found.seen == [("a", 0), ("a", 1), ("a", 2)]
    assert found.company == {False}


async def test_without_being_called_for_it_runs_at_the_end_of_the_turn() -> None:
    found = Walk()
    found.cohort.start(found.walk("a", 1))
    found.cohort.start(found.walk("b", 1))
    await asyncio.sleep(0)
    assert found.seen == [("a", 0), ("b", 0)]


async def test_those_beyond_the_bound_begin_when_the_others_are_over() -> None:
    found = Walk()
    for number in range(COHORT_MAX + 2):
        found.cohort.start(found.walk(str(number), 2))
    found.cohort.run()
    first, rest = [str(number) for number in range(COHORT_MAX)], [str(COHORT_MAX), str(COHORT_MAX + 1)]
    assert [name for name, _ in found.seen] == [*first, *first, *rest, *rest]


async def test_what_was_waited_for_in_one_turn_goes_on_in_step() -> None:
    loop, found = asyncio.get_running_loop(), Walk()
    first, second = loop.create_future(), loop.create_future()
    for name, wait in (("a", first), ("b", second), ("c", first)):
        found.cohort.start(found.walk(name, 2, wait))
    found.cohort.run()
    assert not found.seen
    first.set_result(None)
    second.set_result(None)
    await asyncio.sleep(0.01)
    assert found.seen == [("a", 0), ("c", 0), ("b", 0), ("a", 1), ("c", 1), ("b", 1)]


async def test_waits_of_every_kind_end() -> None:
    loop, cohort = asyncio.get_running_loop(), Cohort()
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

    cohort.start(work())
    cohort.run()
    assert not seen
    first.set_result(1)
    second.set_exception(ValueError("two"))
    await asyncio.wait_for(over, 3.0)
    assert seen == [1, "two", "thread"]


async def test_an_exception_is_told_and_the_others_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    found = Walk()

    async def broken() -> None:
        raise ValueError("inside")

    for work in (found.walk("a", 2), broken(), found.walk("b", 2)):
        found.cohort.start(work)
    found.cohort.run()
    assert found.seen == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert "inside" in "".join(capsys.readouterr())
    found.cohort.start(found.walk("c", 1))
    found.cohort.run()
    assert found.seen[-1] == ("c", 0)
