"""Ledger workers that share a Kafka topic are killed again and again: the book has every notice exactly once.

Records come twice and out of order, as they do when an append is repeated, and poison stands between them.
"""

import asyncio
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dsp.cache.local import LocalLeaseStore
from dsp.cache.port import LeaseWant, Limit
from dsp.events.schema import NoticeKind, encode
from dsp.kernel.clock import SystemClock
from dsp.kernel.config import Platform
from dsp.store.book import BookRepository
from dsp.store.database import create_engine, session_factory
from dsp.stream.connect import event_log
from dsp.stream.port import Entry
from tests.notices import notice

BIDS = 4_000
LINE_ITEMS = 16
PARTITIONS = 4
COST = 10
POISON = 5
LEDGER = """
import asyncio, sys
from pathlib import Path
from dsp.cache.local import LocalLeaseStore
from dsp.kernel.clock import SystemClock
from dsp.kernel.config import Platform
from dsp.kernel.errors import UnavailableError
from dsp.store.database import create_engine
from dsp.stream.connect import event_log
from dsp.workers.config import WorkersConfig
from dsp.workers.ledger import LedgerJob

async def main():
    clock = SystemClock()
    job = LedgerJob(
        create_engine(sys.argv[2]),
        event_log(Platform(stream_url=sys.argv[3], stream_partitions=4), clock),
        LocalLeaseStore(Path(sys.argv[1]) / "leases.db"),
        WorkersConfig(batch_records=25, wait_ms=20),
    )
    await job.open()
    print("open", flush=True)
    while True:
        try:
            await job.step()
        except UnavailableError as fault:
            print(fault, flush=True)
            await asyncio.sleep(0.1)
        print(sorted(job._share), flush=True)

asyncio.run(main())
"""


class Worker:
    """One ledger process, and what it says its share is."""

    def __init__(self, path: Path, database: str, stream: str) -> None:
        self.said = path / f"ledger-{time.monotonic_ns()}.log"
        with self.said.open("wb") as file:
            arguments = [sys.executable, "-c", LEDGER, str(path), database, stream]
            self._process = subprocess.Popen(arguments, stdout=file, stderr=file)

    def share(self) -> str:
        lines = [line for line in self.said.read_text().splitlines() if line.startswith("[")]
        return lines[-1] if lines else "[]"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)


async def _prepare(path: Path) -> tuple[list[Entry], dict[str, int]]:
    """Lease money for every line item; return the records to append, and what each lease is to bear in the end."""
    leases = LocalLeaseStore(path / "leases.db", "NORMAL")
    await leases.open()
    now_ms = SystemClock().now_ms()
    day = now_ms // 86_400_000
    await leases.set_limits([Limit(number, 2, None, None, None, None) for number in range(LINE_ITEMS)])
    epoch = await leases.register("bidder", now_ms)
    wants = [LeaseWant(number, day, 10**6) for number in range(LINE_ITEMS)]
    report = await leases.sync(epoch, now_ms, wants, {}, now_ms + 600_000)
    await leases.close()
    names = {lease.line_item_id: lease.lease_id for lease in report.leases}
    records, bears = [], dict.fromkeys(names.values(), 0)
    for number in range(BIDS):
        line_item_id = number % LINE_ITEMS
        facts = {"line_item_id": line_item_id, "lease_id": names[line_item_id], "day": day}
        bears[names[line_item_id]] += COST
        record = Entry(
            str(line_item_id), encode(notice(number, cost_micros=COST, expires_at_ms=now_ms + 600_000, **facts))
        )
        records += [record] * (2 if number % 3 == 0 else 1)
    records += [
        Entry(str(number % LINE_ITEMS), encode(notice(number, NoticeKind.LOSS, line_item_id=number % LINE_ITEMS)))
        for number in range(BIDS, BIDS + 300)
    ]
    records += [Entry(str(number), b"\xc1 poison") for number in range(POISON)]
    random.Random(5).shuffle(records)
    return records, bears


async def _append(stream: str, records: list[Entry]) -> int:
    log = event_log(Platform(stream_url=stream, stream_partitions=PARTITIONS), SystemClock())
    await log.open()
    latest_ms = 0
    for start in range(0, len(records), 100):
        latest_ms = await log.append("notices", records[start : start + 100])
        await asyncio.sleep(0.05)  # while the workers read
    await log.close()
    return latest_ms


async def _parked(stream: str) -> int:
    log = event_log(Platform(stream_url=stream, stream_partitions=PARTITIONS), SystemClock())
    await log.open()
    batch = await log.read("dead_letters", {}, 1_000)
    await log.close()
    return len({record.key for record in batch.records})


async def _until(what: str, true: Callable[[], bool], seconds: float, workers: list[Worker]) -> None:
    give_up = time.monotonic() + seconds
    while not true():
        said = "\n".join(worker.said.read_text()[-600:] for worker in workers)
        assert time.monotonic() < give_up, f"{what} did not happen:\n{said}"
        await asyncio.sleep(0.05)


@pytest.mark.platform
@pytest.mark.timeout(600)
@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_killed_and_paused_ledgers_enter_everything_exactly_once(
    tmp_path: Path, database: str, kafka: str
) -> None:
    records, bears = await _prepare(tmp_path)
    engine = create_engine(database)
    views = session_factory(engine, read_only=True)

    def entered() -> int:
        with views() as session:
            return BookRepository(session).transactions()

    workers = [Worker(tmp_path, database, kafka) for _ in range(2)]
    try:
        await _until("sharing", lambda: sorted(map(len, (one.share() for one in workers))) == [6, 6], 90, workers)
        appending = asyncio.create_task(_append(kafka, records))
        await _until("progress", lambda: entered() > BIDS // 8, 90, workers)
        workers[0].kill()  # in the middle of a batch, as likely as not
        workers.append(Worker(tmp_path, database, kafka))
        await _until("progress", lambda: entered() > BIDS // 3, 90, workers)
        workers[1].pause()  # for longer than its session: others get its share, and it does not know
        await _until("takeover", lambda: workers[2].share() == "[0, 1, 2, 3]", 90, workers)
        workers[1].go_on()
        latest_ms = await appending
        await _until("the end", lambda: entered() == BIDS, 120, workers)
        store = sqlite3.connect(tmp_path / "leases.db")

        def settled() -> bool:
            told = dict(store.execute("SELECT lease_id, settled FROM leases").fetchall())
            (watermark_ms,) = store.execute("SELECT watermark_ms FROM state").fetchone()
            return told == bears and watermark_ms > latest_ms

        await _until("settling", settled, 90, workers)
        store.close()
    finally:
        for worker in workers:
            worker.kill()
    with views() as session:
        book = BookRepository(session)
        assert (book.transactions(), book.imbalance()) == (BIDS, 0)
        assert book.spent_by_lease() == bears
    engine.dispose()
    assert await _parked(kafka) == POISON
