"""What becomes of leased money at an orderly end."""

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from bidder.sync import LeaseSync
from dsp.cache.local import LocalLeaseStore
from dsp.cache.port import LeaseReport, LeaseWant, Limit
from dsp.kernel.clock import SystemClock
from dsp.kernel.money import Micros
from dsp.ledger.lease import LeaseBook
from tests.waiting import until

DAY_MS = 86_400_000


class Slow(LocalLeaseStore):
    """Does at once what it is asked, and answers when it may."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "NORMAL")
        self.granted = False
        self.answers = asyncio.Event()

    async def sync(
        self, epoch: int, now_ms: int, wants: Sequence[LeaseWant], returns: Mapping[str, Micros], expires_ms_max: int
    ) -> LeaseReport:
        report = await super().sync(epoch, now_ms, wants, returns, expires_ms_max)
        if report.leases:
            self.granted = True
            await self.answers.wait()
        return report


async def test_what_is_granted_while_it_stops_is_returned(tmp_path: Path) -> None:
    store, clock, book = Slow(tmp_path / "leases.db"), SystemClock(), LeaseBook(0)
    await store.open()
    await store.set_limits([Limit(10, 2, None, None, None, None)])
    sync = LeaseSync(store, book, "bidder", 10, clock)
    await sync.start()
    now_ms = clock.now_ms()
    book.reserve(10, now_ms // DAY_MS, "", 1_000, clock.elapsed_ns() // 1_000_000, now_ms + DAY_MS)  # nothing there
    await until(lambda: store.granted)
    stopping = asyncio.create_task(sync.stop())
    await asyncio.sleep(0.05)
    store.answers.set()
    await stopping
    await store.close()
    with closing(sqlite3.connect(tmp_path / "leases.db")) as sql:
        assert sql.execute("SELECT count(*), sum(granted) FROM leases").fetchone() == (1, 0)
