"""The audit runs beside the ledger: it tells the imbalance, leaves the event loop alone, and outlives a database."""

import asyncio
import threading

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Engine

from dsp.kernel.clock import ManualClock, SystemClock
from dsp.kernel.errors import UnavailableError
from dsp.store.book import BookRepository
from dsp.store.book_tables import BookDayRow
from dsp.store.database import session_factory
from dsp.workers import audit
from dsp.workers.audit import Audit
from tests.waiting import until

#: Spend and late spend that no posting explains.
TAMPERED = {column.name: 7 for column in BookDayRow.__table__.columns}


@pytest.fixture
def database(sqlite: str) -> str:
    return sqlite


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "INTERVAL_SECONDS", 0.01)
    monkeypatch.setattr(audit, "PAUSES", 0.0)


def imbalance() -> float:
    return REGISTRY.get_sample_value("dsp_ledger_imbalance_micros") or 0.0


@pytest.mark.usefixtures("often")
async def test_an_imbalance_is_told_and_so_is_its_end(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(BookDayRow.__table__.insert(), TAMPERED)
    one = Audit(session_factory(engine, read_only=True), SystemClock())
    one.start()
    await until(lambda: imbalance() == 14)
    with engine.begin() as connection:
        connection.execute(BookDayRow.__table__.delete())
    await until(lambda: imbalance() == 0)
    await one.stop()


@pytest.mark.usefixtures("often")
async def test_it_waits_in_a_thread_and_goes_on_when_the_database_is_back(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, asked = threading.Event(), list[int]()

    def slow(_: BookRepository) -> int:
        asked.append(threading.get_ident())
        if len(asked) == 1:
            raise UnavailableError("away")
        go_on.wait(10.0)
        return 0

    monkeypatch.setattr(BookRepository, "imbalance", slow)
    one = Audit(session_factory(engine, read_only=True), SystemClock())
    one.start()
    await until(lambda: len(asked) == 2)  # the loop turns although a sum is under way
    assert threading.get_ident() not in asked
    go_on.set()
    await until(lambda: len(asked) > 2)
    await one.stop()


async def test_a_sum_that_takes_long_is_followed_by_a_longer_pause(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, sums = ManualClock(), list[int]()

    def slow(_: BookRepository) -> int:
        clock.advance(60_000 if len(sums) == 2 else 0)
        sums.append(0)
        return 0

    monkeypatch.setattr(BookRepository, "imbalance", slow)
    monkeypatch.setattr(audit, "INTERVAL_SECONDS", 0.05)
    one = Audit(session_factory(engine, read_only=True), clock)
    one.start()
    began = asyncio.get_running_loop().time()
    await until(lambda: len(sums) == 3)
    assert asyncio.get_running_loop().time() - began > 0.1
    await asyncio.sleep(0.2)
    assert len(sums) == 3
    await one.stop()


async def test_to_stop_what_was_not_started_is_harmless(engine: Engine) -> None:
    await Audit(session_factory(engine, read_only=True), SystemClock()).stop()
