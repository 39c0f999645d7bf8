"""Bidders, one lease store, one log, one ledger, and the oracle that watches them. Nothing here chooses what happens.

The simulation chooses by seed, the property test lets hypothesis choose.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import Connection, event

from dsp.cache.port import LeaseReport, Limit
from dsp.events.schema import BidFacts, Notice, NoticeKind, encode
from dsp.kernel.errors import ConflictError, UnavailableError
from dsp.kernel.money import Micros, cost_micros
from dsp.ledger.lease import LeaseBook
from dsp.pacing.plan import day_number
from dsp.stream.stamp import Stamp
from dsp.workers.config import WorkersConfig
from dsp.workers.ledger import LedgerJob
from loadtest.faults.oracle import Oracle
from loadtest.faults.parts import Grantor, Log, SkewedClock, World, book_engine, finish

HOLDER_TIMEOUT_MS = 30_000
BATCH_RECORDS = 1_000


class Owner(NamedTuple):
    """Whose a line item is, and when its days begin."""

    campaign_id: int
    timezone: str


@dataclass(eq=False)
class Process:
    """A bidder's process: killed, it is gone with all it knew; paused, it does nothing and notices nothing."""

    name: str
    book: LeaseBook
    clock: SkewedClock
    stamp: Stamp
    paused: bool = False
    dead: bool = False
    answer: LeaseReport | None = None  # of a sync, not looked at yet
    accepted: list[Notice] = field(default_factory=list)  # understood, not durable yet
    noticed: set[tuple[str, NoticeKind]] = field(default_factory=set)


class Platform:
    """The money side of the whole platform, driven from outside."""

    def __init__(self, at_ms: int, owners: dict[int, Owner], batch_records: int = BATCH_RECORDS) -> None:
        self.world = World(at_ms)
        self.owners = owners
        self.oracle = Oracle()
        self.store = Grantor()
        self.processes: list[Process] = []
        self.engine = book_engine()
        self.ledger_clock = SkewedClock(self.world)
        self.log = Log(Stamp(self.ledger_clock))
        self.bids = 0
        self.durable: set[tuple[str, NoticeKind]] = set()  # and acknowledged
        self._batch_records = batch_records
        finish(self.store.open())
        self.restart_ledger()

    def close(self) -> None:
        """Release the two databases."""
        finish(self.store.close())
        self.engine.dispose()

    # What bidders do

    def start(self, name: str, skew_ms: int = 0) -> Process:
        """Start a process; one of the same name that still runs is a paused one that everybody takes for dead.

        Raises:
            UnavailableError: the grantor is away.
        """
        clock = SkewedClock(self.world, skew_ms, self.world.at_ms - 1_000_003 * (1 + len(self.processes) % 17))
        epoch = finish(self.store.register(name, clock.now_ms()))
        process = Process(name, LeaseBook(epoch), clock, Stamp(clock))
        self.processes.append(process)
        return process

    def kill(self, process: Process) -> None:
        """End a process; what it had not made durable is gone."""
        process.dead = True
        self.processes.remove(process)

    def payable(self, process: Process, line_item_id: int) -> Micros:
        """Return what a bid of the line item may cost now."""
        day = day_number(process.clock.now_ms(), self.owners[line_item_id].timezone)
        return process.book.payable(line_item_id, day, process.clock.elapsed_ms)

    def bid(
        self,
        process: Process,
        line_item_id: int,
        auction_id: str,
        price_micros_cpm: Micros,
        ttl_ms: int,
        value: Micros,
        again: bool = False,
    ) -> BidFacts | None:
        """Reserve the cost and send a bid, as bidder.auction does; None without money."""
        owner, now_ms, elapsed_ms = self.owners[line_item_id], process.clock.now_ms(), process.clock.elapsed_ms
        day, cost = day_number(now_ms, owner.timezone), cost_micros(price_micros_cpm)
        bid_id = f"bid-{self.bids}"
        expires_at_ms = max(now_ms, process.book.ledger_ms(elapsed_ms)) + ttl_ms
        lease_id = process.book.reserve(line_item_id, day, bid_id, cost, elapsed_ms, expires_at_ms, again)
        if lease_id is None:
            return None
        self.bids += 1
        facts = BidFacts(
            exchange="exchange",
            auction_id=auction_id,
            imp_id="1",
            bid_id=bid_id,
            advertiser_id=owner.campaign_id,
            campaign_id=owner.campaign_id,
            line_item_id=line_item_id,
            creative_id=1,
            price_micros_cpm=price_micros_cpm,
            cost_micros_max=cost,
            currency="USD",
            rate=1.0,
            bid_at_ms=now_ms,
            expires_at_ms=expires_at_ms,
            lease_id=lease_id,
            day=day,
            value_micros=value,
        )
        self.oracle.left(facts)
        return facts

    def withdraw(self, process: Process, facts: BidFacts) -> None:
        """The answer could not be sent."""
        process.book.cancel(facts.bid_id)
        self.oracle.withdrawn(facts)

    def accept(self, process: Process, facts: BidFacts, kind: NoticeKind, clearing: Micros = 0) -> None:
        """A process understands a notice; `flush` makes it durable and acknowledges it, however much later that is."""
        if (facts.bid_id, kind) in process.noticed:
            return
        now_ms = process.clock.now_ms()
        late = kind is NoticeKind.BILL and now_ms > facts.expires_at_ms
        cost = min(cost_micros(clearing), facts.cost_micros_max)
        process.accepted.append(Notice(kind=kind, facts=facts, at_ms=now_ms, cost_micros=cost, late=late))

    def flush(self, process: Process) -> None:
        """Make durable what was accepted, then act on it and acknowledge it."""
        accepted, process.accepted = process.accepted, []
        for notice in accepted:
            bid_id = notice.facts.bid_id
            record = self.log.write(process.stamp, str(notice.facts.line_item_id), encode(notice))
            self.oracle.appended(notice, record.appended_ms)
            process.noticed.add((bid_id, notice.kind))
            self.durable.add((bid_id, notice.kind))
            if notice.kind is NoticeKind.LOSS:
                process.book.release(bid_id, record.appended_ms)
            else:
                process.book.bill(bid_id, notice.cost_micros, record.appended_ms)

    def send_sync(self, process: Process, *, reaches_store: bool = True, answered: bool = True) -> bool:
        """Begin a sync as bidder.sync does; `look_at_answer` ends it. Return False where the epoch was fenced."""
        book, elapsed_ms = process.book, process.clock.elapsed_ms
        wants, returns = book.wants(elapsed_ms), book.returns(elapsed_ms)
        process.answer = None
        if not reaches_store:
            return True
        try:
            answer = finish(self.store.sync(book.epoch, process.clock.now_ms(), wants, returns, book.expires_ms_max))
        except UnavailableError:
            return True
        except ConflictError:
            book.adopt(finish(self.store.register(process.name, process.clock.now_ms())))
            return False
        self.oracle.store_is_right(self.store.file.sql, book.epoch)
        process.answer = answer if answered else None
        return True

    def look_at_answer(self, process: Process) -> None:
        """End the sync that was begun last, if it was answered."""
        if process.answer is not None:
            process.book.apply(process.answer, process.clock.elapsed_ms)
            process.answer = None

    # What workers do

    def ledger(self, *, dies_at_commit: bool = False, dies_at_settle: bool = False) -> bool:
        """Let the ledger's job do a step; one that dies is started again. Return whether more is waiting."""
        more, store_answers = True, not self.store.file.away and not dies_at_settle
        self.store.dies_at_settle = dies_at_settle
        if dies_at_commit:
            event.listen(self.engine, "commit", _die)
        try:
            more = finish(self._job.step())
        except (UnavailableError, _LedgerKilledError):
            if dies_at_commit or dies_at_settle:
                self.restart_ledger()
        finally:
            self.store.dies_at_settle = False
            if dies_at_commit:
                event.remove(self.engine, "commit", _die)
        self.oracle.passed(self.log.floor_ms)
        self.oracle.store_is_right(self.store.file.sql)
        self.oracle.book_is_right(self.engine, store_answers=store_answers)
        return more

    def restart_ledger(self) -> None:
        """Start the ledger's job anew: it knows what the book knows."""
        workers = WorkersConfig(batch_records=self._batch_records, wait_ms=1)
        self._job = LedgerJob(self.engine, self.log, self.store, workers, clock=self.ledger_clock)
        finish(self._job.open())

    def reclaim(self) -> int:
        """Return what dead holders held, as the pacing worker does."""
        try:
            reclaimed = finish(self.store.reclaim(self.ledger_clock.now_ms(), HOLDER_TIMEOUT_MS))
        except UnavailableError:
            return 0
        self.oracle.store_is_right(self.store.file.sql)
        return reclaimed

    def set_limits(self, limits: Sequence[Limit]) -> bool:
        """Tell the store the budgets, as the snapshot worker does; False when it is away, to be tried again."""
        try:
            finish(self.store.set_limits(limits))
        except UnavailableError:
            return False
        self.oracle.limited(limits)
        return True


class _LedgerKilledError(Exception):
    """The ledger's process died while it committed: nothing of the transaction has happened."""


def _die(_connection: Connection) -> None:
    raise _LedgerKilledError
