"""One of several processes does the job; when it goes, another takes over, and reads back what it left."""

import pytest

from dsp.kernel.errors import UnavailableError
from dsp.store.database import create_engine
from dsp.store.leader import Leadership
from dsp.workers.single import Single
from tests.servers.postgres import Postgres


class Counter:
    """Counts its calls, or fails."""

    def __init__(self) -> None:
        self.opened = self.closed = self.steps = 0
        self.fault: Exception | None = None

    async def open(self) -> None:
        self.opened += 1
        if self.fault is not None:
            raise self.fault

    async def close(self) -> None:
        self.closed += 1

    async def step(self) -> bool:
        self.steps += 1
        return True


def calls(job: Counter) -> tuple[int, int, int]:
    return job.opened, job.steps, job.closed


async def test_one_works_and_another_takes_over(database: str) -> None:
    engines = [create_engine(database), create_engine(database)]
    first, second = Counter(), Counter()
    leader, standby = (
        Single(job, Leadership(engine, "it")) for job, engine in zip((first, second), engines, strict=True)
    )
    await leader.open()
    await standby.open()
    for _ in range(3):
        assert await leader.step()
        assert not await standby.step()
    assert (calls(first), calls(second)) == ((1, 3, 0), (0, 0, 0))
    other = Leadership(engines[1], "something else")
    assert other.held()
    await leader.close()
    assert await standby.step()
    assert not await leader.step()
    assert (calls(first), calls(second)) == ((1, 3, 1), (1, 1, 0))
    await standby.close()
    await leader.close()
    other.give_up()
    for engine in engines:
        engine.dispose()


async def test_one_that_never_led_closes_nothing(database: str) -> None:
    engine = create_engine(database)
    job, leadership = Counter(), Leadership(engine, "it")
    assert leadership.held()
    standby = Single(job, Leadership(create_engine(database), "it"))
    assert not await standby.step()
    await standby.close()
    assert calls(job) == (0, 0, 0)
    leadership.give_up()
    engine.dispose()


async def test_a_job_that_cannot_be_opened_is_opened_again(database: str) -> None:
    engine, job = create_engine(database), Counter()
    single = Single(job, Leadership(engine, "it"))
    job.fault = UnavailableError("away")
    for _ in range(2):
        with pytest.raises(UnavailableError):
            await single.step()
    job.fault = None
    assert await single.step()
    assert calls(job) == (3, 1, 0)
    await single.close()
    engine.dispose()


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_without_the_database_nobody_leads_and_afterwards_one_does(database: str, postgres: Postgres) -> None:
    engines = [create_engine(database), create_engine(database)]
    jobs = [Counter(), Counter()]
    singles = [Single(job, Leadership(engine, "it")) for job, engine in zip(jobs, engines, strict=True)]
    assert [await single.step() for single in singles] == [True, False]
    postgres.kill()
    for single in singles:
        with pytest.raises(UnavailableError):
            await single.step()
    postgres.start()
    assert [await single.step() for single in reversed(singles)] == [True, False]  # whoever asks first
    assert [calls(job) for job in jobs] == [(1, 1, 0), (1, 1, 0)]
    for single, engine in zip(singles, engines, strict=True):
        await single.close()
        engine.dispose()
