"""The ledger's process is killed again and again: every notice is in the book exactly once, and the leases agree."""

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

from dsp.cache.local import LocalLeaseStore
from dsp.cache.port import LeaseWant, Limit
from dsp.events.schema import NoticeKind, encode
from dsp.kernel.clock import SystemClock
from dsp.store import migrate
from dsp.store.book import BookRepository
from dsp.store.database import create_engine, session_factory
from dsp.stream.local import LocalEventLog
from dsp.stream.port import Entry
from tests.notices import notice

BIDS = 3_000
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
        create_engine(f"sqlite:///{data / 'dsp.db'}"),
        LocalEventLog(data / "log", clock),
        LocalLeaseStore(data / "leases.db"),
        WorkersConfig(batch_records=40, wait_ms=1),
        clock,
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
    migrate.upgrade(f"sqlite:///{data / 'dsp.db'}")
    leases, log = LocalLeaseStore(data / "leases.db", "NORMAL"), LocalEventLog(data / "log", clock, "NORMAL")
    await leases.open()
    await log.open()
    now_ms = clock.now_ms()
    await leases.set_limits([Limit(3, 2, None, None, None, None)])
    epoch = await leases.register("bidder", now_ms)
    day = now_ms // 86_400_000
    (lease,) = (await leases.sync(epoch, now_ms, [LeaseWant(3, day, 10**6)], {}, now_ms + 600_000)).leases
    chooser = random.Random(5)
    facts = {"lease_id": lease.lease_id, "day": day, "expires_at_ms": now_ms + 600_000}
    events = [notice(number, cost_micros=10, **facts) for number in range(BIDS)]
    events += [notice(number, cost_micros=10, **facts) for number in range(0, BIDS, 3)]
    events += [notice(number, NoticeKind.LOSS, **facts) for number in range(BIDS, BIDS + 500)]
    chooser.shuffle(events)
    await log.append("notices", [Entry("3", encode(one)) for one in events])
    await log.close()
    await leases.close()
    return lease.lease_id


def _start(data: Path, mode: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", LEDGER, str(data), mode], stdout=subprocess.PIPE, text=True)


@pytest.mark.platform
def test_a_killed_ledger_enters_everything_exactly_once(tmp_path: Path) -> None:
    lease_id = asyncio.run(_prepare(tmp_path))
    chooser = random.Random(1)
    engine = create_engine(f"sqlite:///{tmp_path / 'dsp.db'}")
    views = session_factory(engine, read_only=True)
    killed_midway = 0
    for _ in range(5):
        process = _start(tmp_path, "on")
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            with views() as session:
                before = BookRepository(session).transactions()
            goal, deadline = min(BIDS, before + chooser.randint(1, 400)), time.monotonic() + 30
            entered = before
            while entered < goal and time.monotonic() < deadline:
                with views() as session:
                    entered = BookRepository(session).transactions()
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
        killed_midway += entered < BIDS
    assert killed_midway >= 2
    last = _start(tmp_path, "to the end")
    assert last.communicate(timeout=60)[0] == "open\n"
    assert last.returncode == 0
    with views() as session:
        book = BookRepository(session)
        assert (book.transactions(), book.imbalance()) == (BIDS, 0)
        assert book.spent_by_lease() == {lease_id: BIDS * 10}
    engine.dispose()
    leases = sqlite3.connect(tmp_path / "leases.db")
    assert leases.execute("SELECT lease_id, settled FROM leases").fetchall() == [(lease_id, BIDS * 10)]
    leases.close()
