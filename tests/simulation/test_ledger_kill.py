"""The ledger's process, or its database, is killed again and again: every notice is in the book exactly once, and the
leases agree.
"""

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from dsp.cache.local import LocalLeaseStore
from dsp.cache.port import LeaseWant, Limit
from dsp.events.schema import NoticeKind, encode
from dsp.kernel.clock import SystemClock
from dsp.ledger.terms import late_lease_id
from dsp.store.book import BookRepository
from dsp.store.database import create_engine, session_factory
from dsp.stream.local import LocalEventLog
from dsp.stream.port import Entry
from tests.notices import notice
from tests.servers.postgres import PASSWORD, Postgres

BIDS = 3_000
#: Every so-manieth bid's notices come late, and its budgets have room for as many.
LATE = 10
LEDGER = """
import asyncio, sys
from pathlib import Path
from dsp.cache.local import LocalLeaseStore
from dsp.kernel.clock import SystemClock
from dsp.store.database import create_engine
from dsp.stream.local import LocalEventLog
from dsp.workers.config import WorkersConfig
from dsp.workers.ledger import LedgerJob

async def main():
    data, clock = Path(sys.argv[1]), SystemClock()
    job = LedgerJob(
        create_engine(sys.argv[3]),
        LocalEventLog(data / "log", clock),
        LocalLeaseStore(data / "leases.db"),
        WorkersConfig(batch_records=40, wait_ms=1),
    )
    await job.open()
    print("open", flush=True)
    while await job.step() or sys.argv[2] == "on":
        pass
    await job.close()

asyncio.run(main())
"""


async def _prepare(data: Path) -> str:
    """Lease money, and log a notice or several for each of many bids; return the lease's id."""
    clock = SystemClock()
    leases, log = LocalLeaseStore(data / "leases.db", "NORMAL"), LocalEventLog(data / "log", clock, "NORMAL")
    await leases.open()
    await log.open()
    now_ms = clock.now_ms()
    await leases.set_limits([Limit(3, 2, None, 10**6 + 10 * BIDS // LATE, None, None)])
    epoch = await leases.register("bidder", now_ms)
    day = now_ms // 86_400_000
    (lease,) = (await leases.sync(epoch, now_ms, [LeaseWant(3, day, 10**6)], {}, now_ms + 600_000)).leases
    chooser = random.Random(5)
    facts = {"lease_id": lease.lease_id, "day": day, "expires_at_ms": now_ms + 600_000}
    numbers = [*range(BIDS), *range(0, BIDS, 3)]
    events = [notice(number, cost_micros=10, late=number % LATE == 0, **facts) for number in numbers]
    events += [notice(number, NoticeKind.LOSS, **facts) for number in range(BIDS, BIDS + 500)]
    chooser.shuffle(events)
    await log.append("notices", [Entry("3", encode(one)) for one in events])
    await log.close()
    await leases.close()
    return lease.lease_id


def _start(data: Path, mode: str, database: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", LEDGER, str(data), mode, database]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _wait(views: sessionmaker[Session], count: int) -> int:
    """Wait until the book holds so many transactions, a minute and a half at most; return how many it does."""
    deadline = time.monotonic() + 90
    while True:
        with views() as session:
            entered = BookRepository(session).transactions()
        if entered >= count or time.monotonic() > deadline:
            return entered
        time.sleep(0.005)


def _check(views: sessionmaker[Session], data: Path, lease_id: str) -> None:
    with views() as session:
        book = BookRepository(session)
        assert (book.transactions(), book.imbalance()) == (BIDS, 0)
        late = BIDS // LATE * 10
        spent = {lease_id: BIDS * 10 - late, late_lease_id(3, int(lease_id.rsplit("-", 1)[1])): late}
        assert book.spent_by_lease() == spent
    leases = sqlite3.connect(data / "leases.db")
    assert dict(leases.execute("SELECT lease_id, settled FROM leases").fetchall()) == spent
    assert leases.execute("SELECT granted FROM leases WHERE epoch = 0").fetchall() == [(late,)]
    leases.close()


@pytest.mark.platform
def test_a_killed_ledger_enters_everything_exactly_once(tmp_path: Path, database: str) -> None:
    lease_id = asyncio.run(_prepare(tmp_path))
    chooser = random.Random(1)
    engine = create_engine(database)
    views = session_factory(engine, read_only=True)
    killed_midway = 0
    for _ in range(5):
        process = _start(tmp_path, "on", database)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            entered = _wait(views, min(BIDS, _wait(views, 0) + chooser.randint(1, 400)))
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
        killed_midway += entered < BIDS
    assert killed_midway >= 2
    last = _start(tmp_path, "to the end", database)
    assert last.communicate(timeout=110)[0].startswith("open\n")
    assert last.returncode == 0
    _check(views, tmp_path, lease_id)
    engine.dispose()


@pytest.mark.platform
@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_ledger_whose_database_is_killed_loses_nothing_and_goes_on_by_itself(
    tmp_path: Path, database: str, postgres: Postgres
) -> None:
    lease_id = asyncio.run(_prepare(tmp_path))
    chooser = random.Random(2)
    engine = create_engine(database)
    views = session_factory(engine, read_only=True)
    settings = {
        "DSP_PLATFORM_DATA_DIR": str(tmp_path),
        "DSP_PLATFORM_DATABASE_URL": database,
        "DSP_WORKERS_BATCH_RECORDS": "20",
        "DSP_WORKERS_LEDGER_STEP_MS": "1",
        "DSP_WORKERS_RETRY_MS_MAX": "200",
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DSP_")}
    command = [sys.executable, "-m", "dsp", "worker", "ledger"]
    killed_midway = 0
    with (tmp_path / "ledger.log").open("wb") as log:
        process = subprocess.Popen(command, env=kept | settings, stdout=log, stderr=log)
    try:
        for _ in range(6):
            entered = _wait(views, min(BIDS, _wait(views, 0) + chooser.randint(50, 400)))
            postgres.kill()
            time.sleep(chooser.random())
            postgres.start()
            killed_midway += entered < BIDS
        assert _wait(views, BIDS) == BIDS
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert killed_midway >= 2
    said = (tmp_path / "ledger.log").read_text()
    assert "UnavailableError" in said
    assert PASSWORD not in said
    _check(views, tmp_path, lease_id)
    engine.dispose()
