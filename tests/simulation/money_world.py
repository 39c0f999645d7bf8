"""A small world for money: bidders, one lease store, a ledger, an exchange, and everything that can go wrong.

The lease book, the lease store, the rules of posting and the book are the real ones. The event log is a list with
the log's stamping rule. Nothing here chooses: the property test and the simulation do.
"""

import sqlite3
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dsp.cache.local import LocalLeaseStore
from dsp.cache.port import LeaseReport, Limit
from dsp.events.schema import BidFacts, Notice, NoticeKind, decode, encode
from dsp.kernel.clock import ManualClock
from dsp.kernel.errors import ConflictError
from dsp.ledger.lease import LeaseBook
from dsp.ledger.terms import HOLDER_TIMEOUT_MS, closes_ms
from dsp.store.book import BookRepository
from dsp.store.book_tables import BookTransactionRow
from dsp.store.database import create_engine, session_factory
from dsp.stream.port import Batch, Record
from dsp.workers.ledger import apply_batch

NOTICE_AGE_MAX_MS = 40_000
HOUR_MS = 3_600_000
#: A minute before a day of campaign 1 begins.
START_MS = 20_255 * 24 * HOUR_MS + 8 * HOUR_MS - 60_000
#: Line items 1 and 2 share campaign 1, whose days begin in another zone than line item 3's.
ZONE_HOURS = {1: -8, 2: -8, 3: 5}
CAMPAIGN = {1: 1, 2: 1, 3: 2}


class Bid(NamedTuple):
    facts: BidFacts
    process: "Process"
    epoch: int


@dataclass(eq=False)
class Process:
    """A bidder's process: killed, it is gone with all it knew; paused, it does nothing and notices nothing."""

    name: str
    book: LeaseBook
    clock_offset_ms: int  # monotonic clocks start anywhere
    paused: bool = False
    answer: LeaseReport | None = None  # of a sync, not looked at yet


class World:
    def __init__(self, directory: Path, limits: list[Limit]) -> None:
        self.limits = limits
        self._directory = directory
        self.clock = ManualClock(START_MS)
        self.store = LocalLeaseStore(directory / "leases.db", "NORMAL")
        self.processes: list[Process] = []
        self.bids: list[Bid] = []
        self.bids_made = 0
        self.records: list[Record] = []
        self._accepted: list[tuple[Notice, Process | None]] = []
        self._open: dict[str, Bid] = {}  # bids that could still be charged at their full cost
        self._charged: Counter[str] = Counter()  # by lease, by what the log alone says
        self._decided: set[str] = set()
        self.floor_ms = 0
        self._engine = create_engine(f"sqlite:///{directory / 'book.db'}")
        with self._engine.begin() as connection:
            BookTransactionRow.metadata.create_all(connection)
        self._sessions = session_factory(self._engine)
        self._restart_ledger()

    async def begin(self) -> None:
        await self.store.open()
        await self.store.set_limits(self.limits)
        self._leases = sqlite3.connect(self._directory / "leases.db")

    async def end(self) -> None:
        await self.store.close()
        self._leases.close()
        self._engine.dispose()

    # What bidders do

    async def start(self, name: str) -> Process:
        """Start a process; one of the same name that still runs is a paused one that everybody takes for dead."""
        epoch = await self.store.register(name, self.clock.now_ms())
        process = Process(name, LeaseBook(epoch), clock_offset_ms=1_000_003 * (len(self.bids) % 17))
        self.processes.append(process)
        return process

    def kill(self, process: Process) -> None:
        self.processes.remove(process)

    def bid(self, process: Process, line_item_id: int, cost_micros: int, ttl_ms: int) -> Bid | None:
        now_ms = self.clock.now_ms()
        day = (now_ms + ZONE_HOURS[line_item_id] * HOUR_MS) // (24 * HOUR_MS)
        bid_id = f"bid-{self.bids_made}"
        expires_at_ms = now_ms + min(ttl_ms, NOTICE_AGE_MAX_MS)
        lease = process.book.reserve(line_item_id, day, bid_id, cost_micros, self._elapsed(process), expires_at_ms)
        if lease is None:
            return None
        self.bids_made += 1
        facts = BidFacts(
            exchange="exchange",
            auction_id=f"auction-{bid_id}",
            imp_id="1",
            bid_id=bid_id,
            advertiser_id=CAMPAIGN[line_item_id],
            campaign_id=CAMPAIGN[line_item_id],
            line_item_id=line_item_id,
            creative_id=1,
            price_micros_cpm=cost_micros * 1_000,
            cost_micros_max=cost_micros,
            currency="USD",
            rate=1.0,
            bid_at_ms=now_ms,
            expires_at_ms=expires_at_ms,
            lease_id=lease,
            day=day,
        )
        bid = Bid(facts, process, process.book.epoch)
        self.bids.append(bid)
        self._open[bid_id] = bid
        return bid

    def withdraw(self, bid: Bid) -> None:
        """The answer could not be sent."""
        bid.process.book.cancel(bid.facts.bid_id)
        del self._open[bid.facts.bid_id]
        self.bids.remove(bid)

    def heard_of(self, bid: Bid) -> bool:
        """Return whether somebody has already noticed something of the bid, so it cannot be withdrawn any more."""
        accepted = any(notice.facts.bid_id == bid.facts.bid_id for notice, _ in self._accepted)
        return accepted or bid.facts.bid_id not in self._open

    def accept(self, bid: Bid, receiver: Process, kind: NoticeKind, cost_micros: int = 0, *, act: bool = True) -> None:
        """Some process understands a notice; `append_accepted` makes it durable, however much later that is."""
        late = kind is NoticeKind.BILL and self.clock.now_ms() > bid.facts.expires_at_ms
        notice = Notice(
            kind=kind,
            facts=bid.facts,
            at_ms=self.clock.now_ms(),
            cost_micros=min(cost_micros, bid.facts.cost_micros_max),
            late=late,
        )
        self._accepted.append((notice, receiver if act else None))

    def append_accepted(self) -> None:
        """Make durable what was accepted, and act on it where the process did not die in between."""
        accepted, self._accepted = self._accepted, []
        for notice, receiver in accepted:
            self.floor_ms = max(self.clock.now_ms(), self.floor_ms)
            self.records.append(Record(0, len(self.records), self.floor_ms, "", encode(notice)))
            self._decide(notice)
            if receiver is None:
                continue
            if notice.kind is NoticeKind.LOSS:
                receiver.book.release(notice.facts.bid_id, self.floor_ms)
            elif not notice.late:
                receiver.book.bill(notice.facts.bid_id, notice.cost_micros, self.floor_ms)

    async def send_sync(self, process: Process, *, reaches_store: bool = True, answered: bool = True) -> None:
        """Begin a sync; `look_at_answer` ends it."""
        elapsed_ms = self._elapsed(process)
        wants, returns = process.book.wants(elapsed_ms), process.book.returns(elapsed_ms)
        process.answer = None
        if not reaches_store:
            return
        try:
            answer = await self.store.sync(process.book.epoch, self.clock.now_ms(), wants, returns)
        except ConflictError:
            process.book.adopt(await self.store.register(process.name, self.clock.now_ms()))
            return
        process.answer = answer if answered else None

    def look_at_answer(self, process: Process) -> None:
        if process.answer is not None:
            process.book.apply(process.answer, self._elapsed(process))
            process.answer = None

    def _elapsed(self, process: Process) -> int:
        return self.clock.elapsed_ns() // 1_000_000 + process.clock_offset_ms

    # What workers do

    async def ledger(self, limit: int, *, dies_before_commit: bool = False, dies_before_settle: bool = False) -> None:
        """Enter a batch and settle; a ledger that dies is started again."""
        after = self._position.get(0, 0)
        records = self.records[after : after + limit]
        end = after + len(records) == len(self.records)
        if end:
            self.floor_ms = max(self.clock.now_ms(), self.floor_ms)
        watermark_ms = self.floor_ms if end else records[-1].appended_ms if records else 0
        batch = Batch(records, {0: after + len(records)}, end, watermark_ms)
        with self._sessions() as session:
            applied = apply_batch(session, batch)
            if dies_before_commit:
                session.rollback()
                self._restart_ledger()
                return
            session.commit()
        self._position = dict(batch.position)
        self._unsettled |= applied.leases
        if dies_before_settle:
            self._restart_ledger()
            return
        await self.store.settle(self._unsettled, watermark_ms)
        self._unsettled = {}

    def _restart_ledger(self) -> None:
        with self._sessions() as session:
            book = BookRepository(session)
            self._position = book.position("notices", "ledger")
            self._unsettled = book.spent_by_lease()

    async def reclaim(self) -> int:
        return await self.store.reclaim(self.clock.now_ms(), HOLDER_TIMEOUT_MS, NOTICE_AGE_MAX_MS)

    async def raise_limits(self, factor: float) -> None:
        self.limits = [
            Limit(*limit[:2], *(None if bound is None else int(bound * factor) for bound in limit[2:]))
            for limit in self.limits
        ]
        await self.store.set_limits(self.limits)

    # What must be true

    def _decide(self, notice: Notice) -> None:
        """Follow what the log says of each bid; the first notice that decides it counts."""
        facts = notice.facts
        in_time = self.floor_ms < closes_ms(facts.expires_at_ms)
        if facts.bid_id not in self._decided and in_time:
            self._decided.add(facts.bid_id)
            self._open.pop(facts.bid_id, None)
            if notice.kind is NoticeKind.BILL and not notice.late:
                self._charged[facts.lease_id] += notice.cost_micros

    def overspend_possible_micros(self) -> int:
        """Return by how much limits and leases would be exceeded if every bid that can be charged were billed in full.

        Stronger than no overspend: it fails at the first step that makes one possible.
        """
        now_ms = max(self.clock.now_ms(), self.floor_ms)
        worst = self._charged.copy()
        for bid_id, bid in list(self._open.items()):
            if closes_ms(bid.facts.expires_at_ms) > now_ms:
                worst[bid.facts.lease_id] += bid.facts.cost_micros_max
            else:
                del self._open[bid_id]
        granted: dict[str, int] = dict(self._leases.execute("SELECT lease_id, granted FROM leases").fetchall())
        excess = sum(max(0, micros - granted.get(lease_id, 0)) for lease_id, micros in worst.items())
        return excess + self._excess(_by_line_item(worst))

    def overspend_micros(self) -> int:
        """Return by how much the book exceeds any limit, over all of them."""
        with self._sessions() as session:
            return self._excess(BookRepository(session).spent_by_line_item())

    def _excess(self, spent: dict[tuple[int, int], int]) -> int:
        excess = 0
        for limit in self.limits:
            shared_by = {item for item, campaign in CAMPAIGN.items() if campaign == limit.campaign_id}
            for items, daily, total in (
                ({limit.line_item_id}, limit.daily_micros, limit.total_micros),
                (shared_by, limit.campaign_daily_micros, limit.campaign_total_micros),
            ):
                days: dict[int, int] = {}
                for (item, day), micros in spent.items():
                    if item in items:
                        days[day] = days.get(day, 0) + micros
                if total is not None:
                    excess += max(0, sum(days.values()) - total)
                if daily is not None:
                    excess += sum(max(0, micros - daily) for micros in days.values())
        return excess

    def spend_micros(self, line_item_ids: set[int]) -> int:
        with self._sessions() as session:
            days = BookRepository(session).days(line_item_ids=line_item_ids)
        return sum(one.spend_micros for one in days)

    def unaccounted_micros(self) -> int:
        """Return how far the book is from what the log says, bid by bid and lease by lease, and its imbalance.

        Call it when the ledger has read everything.
        """
        billed: dict[str, int] = {}
        for record in self.records:
            notice = decode(record.value)
            assert isinstance(notice, Notice)
            if notice.cost_micros:
                billed.setdefault(notice.facts.bid_id, notice.cost_micros)
        with self._sessions() as session:
            book = BookRepository(session)
            entered = sum(one.spend_micros + one.late_micros for one in book.days())
            apart = Counter(book.spent_by_lease())
            apart.subtract(self._charged)
            return (
                abs(entered - sum(billed.values()))
                + abs(book.transactions() - len(billed))
                + sum(map(abs, apart.values()))
                + book.imbalance()
            )


def _by_line_item(by_lease: Counter[str]) -> dict[tuple[int, int], int]:
    found: Counter[tuple[int, int]] = Counter()
    for lease_id, micros in by_lease.items():
        _, line_item_id, day = map(int, lease_id.split("-"))
        found[line_item_id, day] += micros
    return found
