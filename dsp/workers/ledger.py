"""Enters billed impressions in the book, and tells the lease store what was settled and how far it has read."""

from collections.abc import Mapping

import msgspec
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from dsp.cache.local import LocalLeaseStore
from dsp.cache.port import LeaseStore
from dsp.events.schema import Notice
from dsp.events.topics import Topic
from dsp.kernel import metrics
from dsp.kernel.clock import NS_PER_MS, Clock, SystemClock
from dsp.kernel.money import Micros
from dsp.ledger.apply import entry
from dsp.ledger.book import Release, Response, Transaction
from dsp.store.book import Applied, BookRepository
from dsp.store.database import create_engine, session_factory, url
from dsp.stream.local import LocalEventLog
from dsp.stream.port import Batch, EventLog
from dsp.workers import runner
from dsp.workers.config import WorkersConfig

#: The name under which the ledger's position is kept in the book.
GROUP = "ledger"
#: How often the whole book is summed up, which takes longer as it grows.
AUDIT_INTERVAL_MS = 60_000


def apply_batch(session: Session, batch: Batch) -> Applied:
    """Enter one batch of notices and the position after it in the session's transaction; the caller commits."""
    entries: list[Transaction | Release | Response] = []
    for record, notice in runner.events(Topic.NOTICES, batch, Notice):
        found = entry(notice, record.appended_ms)
        if found is not None:
            entries.append(found)
    return BookRepository(session).apply(entries, batch.position, Topic.NOTICES, GROUP, batch.watermark_ms)


class LedgerJob:
    """Book first, then leases, so that a watermark never claims what is not in the book.

    What could not be told to the lease store stays in `_unsettled`; after a restart that is everything the book has.
    The amounts are absolute, so telling them twice is harmless.
    """

    def __init__(
        self,
        engine: Engine,
        log: EventLog,
        leases: LeaseStore,
        workers: WorkersConfig,
        clock: Clock,
        currency: str = "USD",
    ) -> None:
        self._sessions = session_factory(engine)
        self._views = session_factory(engine, read_only=True)
        self._log = log
        self._leases = leases
        self._workers = workers
        self._clock = clock
        self._currency = currency
        self._position: dict[int, int] = {}
        self._unsettled: dict[str, Micros] = {}
        self._audit_at_ms = 0

    async def open(self) -> None:
        """Connect, and read from the book where to go on and what every lease bears."""
        await self._log.open()
        await self._leases.open()
        with self._views() as session:
            book = BookRepository(session)
            self._position = book.position(Topic.NOTICES, GROUP)
            self._unsettled = book.spent_by_lease()
        _preset(self._currency)

    async def close(self) -> None:
        """Release connections."""
        await self._log.close()
        await self._leases.close()

    async def step(self) -> bool:
        """Enter one batch; return whether more is waiting."""
        batch = await self._log.read(
            Topic.NOTICES, self._position, self._workers.batch_records, self._workers.wait_ms, fresh=True
        )
        if batch.records:
            with self._sessions.begin() as session:
                applied = apply_batch(session, batch)
            self._position = dict(batch.position)
            self._unsettled |= applied.leases
            self._count(applied, len(batch.records))
        await self._leases.settle(self._unsettled, batch.watermark_ms)
        self._unsettled = {}
        lag = 0 if batch.end else await self._log.lag(Topic.NOTICES, self._position)
        metrics.CONSUMER_LAG.labels(Topic.NOTICES.value, GROUP).set(lag)
        self._audit()
        return not batch.end

    def _count(self, applied: Applied, records: int) -> None:
        entered = applied.charged + applied.late
        for result, count in (
            ("charged", applied.charged),
            ("late", applied.late),
            ("duplicate", applied.duplicate),
            ("response", applied.responses),
            ("not_billing", records - entered - applied.duplicate - applied.responses),
        ):
            metrics.LEDGER_EVENTS.labels(result).inc(count)
        metrics.SPEND.labels(self._currency).inc(applied.charged_micros)
        metrics.LATE_WINS.inc(applied.late_micros)

    def _audit(self) -> None:
        elapsed_ms = self._clock.elapsed_ns() // NS_PER_MS
        if elapsed_ms < self._audit_at_ms:
            return
        with self._views() as session:
            metrics.LEDGER_IMBALANCE.set(BookRepository(session).imbalance())
        self._audit_at_ms = elapsed_ms + AUDIT_INTERVAL_MS


def _preset(currency: str) -> None:
    for result in ("charged", "late", "duplicate", "response", "not_billing"):
        metrics.LEDGER_EVENTS.labels(result)
    metrics.SPEND.labels(currency)


async def run(settings: Mapping[str, msgspec.Struct]) -> None:
    """Run the ledger worker on the embedded stores."""
    platform, workers = runner.sections(settings)
    clock = SystemClock()
    data = platform.data_path
    job = LedgerJob(
        create_engine(url(platform)),
        LocalEventLog(data / "log", clock),
        LocalLeaseStore(data / "leases.db"),
        workers,
        clock,
        platform.currency,
    )
    await runner.run("ledger", settings, job, workers.ledger_step_ms)
