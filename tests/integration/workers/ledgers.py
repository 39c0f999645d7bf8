"""Ledger workers that share a log's partitions, a book and the embedded lease store."""

from collections.abc import Collection, Sequence
from pathlib import Path

from sqlalchemy import Engine

from dsp.cache.local import LocalLeaseStore
from dsp.cache.port import LateClaim
from dsp.kernel.clock import ManualClock
from dsp.kernel.errors import UnavailableError
from dsp.store.book import BookRepository
from dsp.store.database import session_factory
from dsp.stream.port import Assignment, Batch, Position, Record
from dsp.workers.config import WorkersConfig
from dsp.workers.ledger import LedgerJob
from tests.unit.bidder.fakes import FakeLog

LEASE = "7-3-20000"


class Partitions:
    """The records of a topic that several logs read, by partition, and how far its time is known."""

    def __init__(self, count: int) -> None:
        self.records: list[list[Record]] = [[] for _ in range(count)]
        self.now_ms = 5_000

    def add(self, partition: int, *values: bytes) -> None:
        for value in values:
            self.records[partition].append(Record(partition, len(self.records[partition]), self.now_ms, "key", value))


class SharedLog(FakeLog):
    """One worker's view of them: its share is what the test says, and `between` runs after what it reads."""

    def __init__(self, partitions: Partitions, share: set[int]) -> None:
        super().__init__()
        self.partitions = partitions
        self.share = share
        self.limit = 1_000
        self.lost = False
        self.between: list[LedgerJob] = []
        self.name = "kafka:one/notices"

    async def identity(self, topic: str) -> str:
        return self.name

    async def assignment(self, topic: str, group: str) -> Assignment:
        return Assignment(frozenset(self.share), len(self.partitions.records))

    async def read(
        self,
        topic: str,
        position: Position,
        limit: int,
        wait_ms: int = 0,
        partitions: Collection[int] | None = None,
        fresh: bool = False,
    ) -> Batch:
        if self.lost:
            raise UnavailableError("the log is away")
        records: list[Record] = []
        after: Position = {}
        watermarks = {}
        for partition in partitions or ():
            begin = position.get(partition, 0)
            found = self.partitions.records[partition][begin : begin + self.limit]
            records += found
            after[partition] = begin + len(found)
            at_end = after[partition] == len(self.partitions.records[partition])
            watermarks[partition] = self.partitions.now_ms if at_end else found[-1].appended_ms
        while self.between:
            await self.between.pop().step()
        return Batch(records, after, not self.waiting_after(after), watermarks)

    async def lag(self, topic: str, position: Position) -> int:
        return self.waiting_after(position)

    def waiting_after(self, position: Position) -> int:
        return sum(len(self.partitions.records[one]) - offset for one, offset in position.items())


class Leases(LocalLeaseStore):
    """A lease store that a worker may not reach; `told` says of how many leases it was told at a time."""

    away = False

    def __init__(self, path: Path, synchronous: str) -> None:
        super().__init__(path, synchronous)
        self.told: list[int] = []

    async def settle(  # type: ignore[override]
        self, settled: dict[str, int], watermark_ms: int, campaigns: dict[int, int] | None = None
    ) -> None:
        if self.away:
            raise UnavailableError("away")
        self.told.append(len(settled))
        await super().settle(settled, watermark_ms, campaigns)

    async def cover(self, claims: Sequence[LateClaim]) -> dict[str, int]:
        if self.away:
            raise UnavailableError("away")
        return await super().cover(claims)


class World:
    def __init__(self, engine: Engine, path: Path, partitions: int) -> None:
        self.engine = engine
        self.path = path
        self.partitions = Partitions(partitions)
        self.clock = ManualClock()
        self.views = session_factory(engine, read_only=True)

    async def worker(self, *share: int) -> tuple[LedgerJob, SharedLog, Leases]:
        log, leases = SharedLog(self.partitions, set(share)), Leases(self.path / "leases.db", "NORMAL")
        job = LedgerJob(self.engine, log, leases, WorkersConfig(), clock=self.clock)
        await job.open()
        return job, log, leases

    async def watermark_ms(self) -> int:
        """What a bidder is told."""
        leases = Leases(self.path / "leases.db", "NORMAL")
        await leases.open()
        report = await leases.sync(await leases.register("reader", 0), 0, [], {}, 0)
        await leases.close()
        return report.watermark_ms

    def entered(self) -> int:
        with self.views() as session:
            book = BookRepository(session)
            assert book.imbalance() == 0
            assert book.spent_by_lease().get(LEASE, 0) == 80 * book.transactions()
            return book.transactions()

    def money(self) -> tuple[int, int]:
        """What is charged and what is owed, of the one line item's day."""
        with self.views() as session:
            (day,) = BookRepository(session).days()
        return day.spend_micros, day.late_micros
