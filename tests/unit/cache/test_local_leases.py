"""What a sync of many leases asks of the file, in the bidder's own process."""

import sqlite3
from pathlib import Path

from dsp.cache.local import LocalLeaseStore
from dsp.cache.port import LeaseWant, Limit
from dsp.kernel.clock import MS_PER_DAY
from dsp.kernel.sqlite import SqliteFile

NOW_MS = 20_000 * MS_PER_DAY
STATEMENTS: list[str] = []


class Told(SqliteFile):
    """Tells each statement that it runs."""

    async def open(self) -> None:
        await super().open()

        def tell(sql: sqlite3.Connection) -> None:
            sql.set_trace_callback(STATEMENTS.append)

        await self.read(tell)


async def test_a_sync_takes_no_more_statements_where_there_are_more_leases(tmp_path: Path) -> None:
    store = LocalLeaseStore(tmp_path / "leases.db", "NORMAL", Told)
    await store.open()
    epoch, taken = await store.register("bidder", NOW_MS), []
    for count in (1, 50):
        await store.set_limits([Limit(number, 2, None, 9_000, None, None) for number in range(count)])
        await store.sync(epoch, NOW_MS, [LeaseWant(number, 20_000, 10) for number in range(count)], {}, NOW_MS)
        STATEMENTS.clear()
        report = await store.sync(epoch, NOW_MS, [], {}, NOW_MS)
        assert len(report.leases) == count
        taken.append(len(STATEMENTS))
    assert taken[0] == taken[1]
    await store.close()
