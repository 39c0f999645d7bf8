"""Enters billed impressions in the book, and tells the lease store what was settled and how far it has read."""

from collections.abc import Mapping, Sequence
from math import inf

import msgspec
from sqlalchemy import Engine
from sqlalchemy.exc import DataError
from sqlalchemy.orm import Session

from dsp.cache.connect import lease_store
from dsp.cache.local import LocalLeaseStore
from dsp.cache.port import LeaseStore
from dsp.events.schema import BidsSent, Notice
from dsp.events.topics import Topic
from dsp.kernel import logging, metrics
from dsp.kernel.clock import Clock, SystemClock, monotonic_ms
from dsp.kernel.errors import ConflictError, UnavailableError
from dsp.kernel.money import Micros
from dsp.ledger.apply import entry
from dsp.ledger.book import Entry, Transaction
from dsp.ledger.terms import NOTICE_GRACE_MS, SILENCE_MS_MAX, LateClaim
from dsp.store.book import Applied, BookRepository
from dsp.store.book_statements import GROUP
from dsp.store.database import create_engine, session_factory, url
from dsp.stream.connect import event_log
from dsp.stream.port import Assignment, Batch, EventLog, Position, Record
from dsp.workers import runner
from dsp.workers.audit import Audit
from dsp.workers.config import WorkersConfig
from dsp.workers.dead_letters import Poison, park, sift
from dsp.workers.lease_keeper import LeaseKeeper

#: So long after the event log was away watermarks stand still, while bidders hand over what they have acknowledged and
#: kept on their disks meanwhile; an abandoned place is looked for every ten seconds (bidder.salvage).
HANDOVER_MS = 30_000
#: How a database refuses a value, however often it is tried. A fault of our own code is none: it would park everything.
_UNUSABLE = (OverflowError, DataError)


class LedgerJob:
    """Enters the notices of the partitions that are this worker's share; several workers share a topic.

    Book first, then leases, so that a watermark never claims what is not in the book. What could not be told to the
    lease store stays in `_unsettled`. After a start, or when a partition comes from another worker, who had it may not
    have told all that he entered: then what the book has of all leases that are open is told, and to a store that has
    forgotten something, of all leases there ever were. The amounts are absolute, so telling them twice is harmless.

    Two workers may for a moment both believe that a partition is theirs. Each batch moves the position in the book
    from where it was read, in the batch's transaction, so only one of them enters it. The lease store's watermark is
    the least of all partitions': its own as read, the others' as their workers say in the book, once they have told
    the lease store what it stands for (docs/adr/0002).

    While the event log is away its clock stands still, as far as money is concerned, and for a while after: what was
    acknowledged meanwhile was in time, though it is appended later. That costs no budget more than its limit, since no
    reservation ends before a watermark passes it.

    A late win's reservation may have ended, so what pays for it is granted anew, to a lease of the ledger's own, by the
    lease store, before the book charges it. The lease is never given back, and the book charges it no more than it was
    granted; so a ledger that dies in between, or is not alone, makes no budget pay twice. What there is no room for is
    owed and charged to no budget (docs/adr/0002). While the lease store is away the book waits for it as long as
    bidders go on without it; what comes late after that is owed.
    """

    def __init__(
        self,
        engine: Engine,
        log: EventLog,
        leases: LeaseStore,
        workers: WorkersConfig,
        currency: str = "USD",
        keeper: LeaseKeeper | None = None,
        audit: Audit | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._sessions = session_factory(engine)
        self._views = session_factory(engine, read_only=True)
        self._log = log
        self._leases = leases
        self._workers = workers
        self._currency = currency
        self._keeper = keeper
        self._audit = audit
        self._clock = clock or SystemClock()
        self._read_at_ms: float = -inf  # when the log last answered: how long it was away before, we do not know
        self._held_until_ms = 0  # no watermark rises before
        self._share: frozenset[int] = frozenset()
        self._identity = ""  # of the log that the share is of
        self._position: dict[int, int] = {}
        self._watermarks: dict[int, int] = {}  # of our share; no stamp is taken to be before them
        self._watermark_ms = 0
        self._unsettled: dict[str, Micros] = {}
        self._told_ms: int | None = None  # how far those before us told the lease store; None once we told the rest
        self._campaigns: dict[int, int] = {}  # by line item: the lease store may have forgotten a lease
        self._settled_at_ms = monotonic_ms(self._clock)  # when the lease store last answered

    async def open(self) -> None:
        """Connect."""
        await self._log.open()
        await self._leases.open()
        self._count(Applied(0, 0, 0, 0, 0, {}), 0)  # so that the first event is an increase
        if self._audit is not None:
            self._audit.start()

    async def close(self) -> None:
        """Release connections, and with them the share."""
        if self._audit is not None:
            await self._audit.stop()
        await self._log.close()
        await self._leases.close()

    async def step(self) -> bool:
        """Enter one batch; return whether more is waiting."""
        try:
            batch, total = await self._read()
        except UnavailableError:
            now_ms = monotonic_ms(self._clock)
            if now_ms - self._read_at_ms > NOTICE_GRACE_MS:  # shorter, and what waited on disks is not late
                self._held_until_ms = now_ms + HANDOVER_MS
            raise
        self._read_at_ms = monotonic_ms(self._clock)
        if not self._share:
            return False
        if batch.position != self._position:
            try:
                await self._enter(batch)
            except ConflictError as fault:
                logging.get(__name__).info("share lost", fault=str(fault))
                self._share = frozenset()  # and taken again from where the book is now, if it is still ours
                return True
        await self._tell(batch, total)
        lag = 0 if batch.end else await self._log.lag(Topic.NOTICES, self._position)
        metrics.CONSUMER_LAG.labels(Topic.NOTICES.value, GROUP).set(lag)
        return not batch.end

    async def _read(self) -> tuple[Batch, int]:
        """Return what is new in our share, and how many partitions there are."""
        share = await self._log.assignment(Topic.NOTICES, GROUP)
        if share.partitions != self._share:
            await self._take(share)
        limit, wait_ms = self._workers.batch_records, self._workers.wait_ms
        batch = await self._log.read(Topic.NOTICES, self._position, limit, wait_ms, self._share, fresh=True)
        return batch, share.total

    async def _take(self, share: Assignment) -> None:
        """Go on where the book says, and tell the leases again what the book has: who had them may not have.

        Raises:
            UnavailableError: the book goes on in another log. Its positions there would skip records here.
        """
        identity = await self._log.identity(Topic.NOTICES)
        with self._views() as session:
            book = BookRepository(session)
            if (known := book.log()) not in ("", identity):
                raise UnavailableError(f"the book goes on in the event log {known}, and stream_url leads to {identity}")
            positions, watermarks = book.position(), book.watermarks()
        self._told_ms = min(watermarks.values(), default=0)
        self._position = {one: positions[one] for one in share.partitions & positions.keys()}
        # Where nobody has told yet how far it was read (0), records count by their own stamps.
        self._watermarks = {one: watermarks[one] for one in share.partitions if watermarks.get(one)}
        self._share, self._identity = share.partitions, identity
        if len(share.partitions) < share.total:
            logging.get(__name__).info("share taken", partitions=sorted(share.partitions))

    async def _enter(self, batch: Batch) -> None:
        found: list[tuple[Record, Notice | BidsSent]]
        found, poison = sift(batch.records, (Notice, BidsSent))
        await park(self._log, Topic.NOTICES, GROUP, poison)
        try:
            await self._apply(found, batch.position)
        except _UNUSABLE as fault:
            logging.get(__name__).error("one of a batch cannot be entered", fault=repr(fault))
            await self._enter_singly(found, batch.position)

    async def _enter_singly(self, found: Sequence[tuple[Record, Notice | BidsSent]], position: Position) -> None:
        """Enter a batch record by record, and park those that nothing can be done with."""
        for record, notice in found:
            after = self._position | {record.partition: record.offset + 1}
            try:
                await self._apply([(record, notice)], after)
            except _UNUSABLE as fault:
                await park(self._log, Topic.NOTICES, GROUP, [Poison(record, repr(fault))])
                await self._apply([], after)
        if position != self._position:
            await self._apply([], position)

    async def _apply(self, found: Sequence[tuple[Record, Notice | BidsSent]], position: Position) -> None:
        """Enter notices and the position after them in one transaction; where wins are late, ask for money first."""
        entries: list[Entry] = []
        for record, notice in found:
            before_ms = self._watermarks.get(record.partition, record.appended_ms)
            stamp = before_ms if self._held else max(record.appended_ms, before_ms)
            if (made := entry(notice, stamp)) is not None:
                entries.append(made)
        moved = {one: offset for one, offset in position.items() if offset != self._position.get(one)}

        def apply(session: Session, room: Mapping[str, Micros]) -> Applied:
            book = BookRepository(session)
            return book.apply(entries, moved, self._watermark_ms, self._position, room, self._identity)

        with self._sessions.begin() as session:
            applied = apply(session, {})
            if applied.claims:
                session.rollback()
        if applied.claims:
            room = await self._cover(applied.claims)
            with self._sessions.begin() as session:
                applied = apply(session, room)
        self._position = dict(position)
        self._unsettled |= applied.leases
        self._campaigns |= {one.line_item_id: one.campaign_id for one in entries if isinstance(one, Transaction)}
        self._count(applied, sum(isinstance(notice, Notice) for _, notice in found))

    async def _cover(self, claims: Sequence[LateClaim]) -> dict[str, Micros]:
        """Return what the ledger's own leases were granted for late wins.

        Raises:
            UnavailableError: the lease store is away, and may be back soon; for longer the book does not wait for it.
        """
        try:
            await self._settle()  # what is spent counts before what is left
            return await self._leases.cover(claims)
        except UnavailableError:
            if monotonic_ms(self._clock) - self._settled_at_ms <= SILENCE_MS_MAX:
                raise
            return {}

    async def _settle(self) -> None:
        """Tell the lease store what was entered and how far all workers have got."""
        if self._told_ms is not None:
            await self._catch_up(self._told_ms)
            self._told_ms = None
        await self._leases.settle(self._unsettled, self._watermark_ms, self._campaigns)
        self._unsettled = {}
        self._settled_at_ms = monotonic_ms(self._clock)
        if self._keeper is not None:
            await self._keeper.keep(self._watermark_ms)

    async def _catch_up(self, told_ms: int) -> None:
        """Tell the lease store what those may have left untold who had our share: the book has it all."""
        names = await self._leases.behind(told_ms)
        if names is not None:
            with self._views() as session:
                self._unsettled |= BookRepository(session).spent_on(names)
            return
        logging.get(__name__).warning("lease store is told of all leases that the book knows")
        with self._views() as session:
            campaigns = BookRepository(session).campaigns()
        after = ""
        while True:
            with self._views() as session:
                leases = BookRepository(session).spent_by_lease(after)
            if not leases:
                return
            await self._leases.settle(leases, 0, campaigns)
            after = list(leases)[-1]

    async def _tell(self, batch: Batch, total: int) -> None:
        """Tell the lease store what was entered and how far all workers have got, and the book how far we."""
        for partition, watermark_ms in batch.watermarks.items():
            if not self._held:
                self._watermarks[partition] = max(watermark_ms, self._watermarks.get(partition, 0))
        others: dict[int, int] = {}
        if len(self._share) < total:
            with self._views() as session:
                others = BookRepository(session).watermarks()
        every = others | self._watermarks
        if len(every) == total:  # else a partition was never read, and nothing is known of it
            self._watermark_ms = max(self._watermark_ms, min(every.values()))
        await self._settle()
        with self._sessions.begin() as session:  # even of a lone worker: its share may be taken anew
            BookRepository(session).tell(self._watermarks)

    @property
    def _held(self) -> bool:
        return monotonic_ms(self._clock) < self._held_until_ms

    def _count(self, applied: Applied, notices: int) -> None:
        entered = applied.charged + applied.late
        for result, count in (
            ("charged", applied.charged - applied.late_charged),
            ("late_charged", applied.late_charged),
            ("late", applied.late),
            ("duplicate", applied.duplicate),
            ("response", applied.responses),
            ("not_billing", notices - entered - applied.duplicate - applied.responses),
        ):
            metrics.LEDGER_EVENTS.labels(result).inc(count)
        metrics.SPEND.labels(self._currency).inc(applied.charged_micros)
        metrics.LATE_CHARGED.inc(applied.late_charged_micros)
        metrics.LATE_WINS.inc(applied.late_micros)


async def run(settings: Mapping[str, msgspec.Struct]) -> None:
    """Run the ledger worker on the stores that the settings ask for."""
    platform, workers = runner.sections(settings)
    clock = SystemClock()
    engine, leases = create_engine(url(platform)), lease_store(platform)
    job = LedgerJob(
        engine,
        event_log(platform, clock),
        leases,
        workers,
        platform.currency,
        None if isinstance(leases, LocalLeaseStore) else LeaseKeeper(session_factory(engine), leases),
        Audit(session_factory(engine, read_only=True), clock),
    )
    await runner.run("ledger", settings, job, workers.ledger_step_ms)
