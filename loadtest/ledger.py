"""Reads the platform's own records for the demo: spend, plans, budgets, the book's transactions, the event log."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import func, select

from dsp.catalog.entities import Advertiser, Campaign, Catalogue, LineItem
from dsp.catalog.terms import Budget, PacingMode
from dsp.events.schema import Notice, decode_as
from dsp.events.topics import Topic
from dsp.kernel.clock import SystemClock
from dsp.kernel.config import Platform
from dsp.kernel.money import Micros
from dsp.pacing.plan import plan
from dsp.store.book import BookRepository, DayResult
from dsp.store.book_tables import BookPostingRow, BookTransactionRow
from dsp.store.catalog import load_catalogue
from dsp.store.database import create_engine, session_factory, url
from dsp.stream.connect import event_log
from dsp.stream.port import EventLog, Position, Record
from loadtest.console import Progress
from loadtest.reconcile import Budgeted, Charge
from loadtest.truth import NoticeKey

_BATCH = 5_000


class Ledger:
    """A read-only view of one platform; may be used from any thread, by one at a time."""

    def __init__(self, settings: Platform) -> None:
        self._settings = settings
        self._engine = create_engine(url(settings))
        self._sessions = session_factory(self._engine, read_only=True)
        with self._sessions() as session:
            self.catalogue: Catalogue = load_catalogue(session)[1]
        self._advertisers = {one.id: one for one in self.catalogue.advertisers}
        self._line_items: dict[int, list[LineItem]] = defaultdict(list)
        for line_item in self.catalogue.line_items:
            self._line_items[line_item.campaign_id].append(line_item)

    def close(self) -> None:
        """Release the connections."""
        self._engine.dispose()

    def progress(self, now_ms: int) -> list[Progress]:
        """Return each campaign's spend, its plan by now and its budget."""
        total: dict[int, Micros] = defaultdict(int)
        for day in self.results():
            total[day.campaign_id] += day.spend_micros + day.late_micros
        return [
            Progress(one.id, one.name, total[one.id], self._planned(one, now_ms), self._budget(one))
            for one in self.catalogue.campaigns
        ]

    def results(self) -> list[DayResult]:
        """Return spend and results by line item and day."""
        with self._sessions() as session:
            return BookRepository(session).days()

    def budgets(self) -> list[Budgeted]:
        """Return every hard budget of line items and campaigns."""
        line_items = [("line_item", one.id, one.name, one.budget) for one in self.catalogue.line_items]
        campaigns = [("campaign", one.id, one.name, one.budget) for one in self.catalogue.campaigns]
        return [
            Budgeted(kind, key, name, budget.daily_micros, budget.total_micros)
            for kind, key, name, budget in line_items + campaigns
        ]

    def charges(self) -> list[Charge]:
        """Return every transaction of the book with what is owed for it."""
        row = BookTransactionRow
        owed = func.sum(BookPostingRow.micros).label("owed")
        query = (
            select(row.exchange, row.auction_id, row.imp_id, row.kind, row.line_item_id, row.campaign_id, row.day, owed)
            .join(BookPostingRow, BookPostingRow.bid_id == row.bid_id)
            .where(BookPostingRow.account.startswith("payable:"))
            .group_by(row.bid_id)
        )
        with self._sessions() as session:
            return [
                Charge(NoticeKey(*one[:4]), -int(one.owed), one.line_item_id, one.campaign_id, one.day)
                for one in session.execute(query)
            ]

    def transactions(self) -> int:
        """Return how many transactions the book has."""
        with self._sessions() as session:
            return session.scalar(select(func.count()).select_from(BookTransactionRow)) or 0

    def imbalance(self) -> Micros:
        """Return what the book fails to sum to zero by."""
        with self._sessions() as session:
            return BookRepository(session).imbalance()

    def spent_out(self) -> int:
        """Return how many line items have at most a twentieth of their budget left, which open bids may still cost."""
        spent: dict[int, Micros] = defaultdict(int)
        for day in self.results():
            spent[day.line_item_id] += day.spend_micros
        budgets = {one.id: tightest(one.budget) for one in self.catalogue.line_items}
        return sum(budget is not None and spent[key] >= budget * 0.95 for key, budget in budgets.items())

    def events(self) -> list[NoticeKey]:
        """Return the key of every notice in the event log, as often as it is there."""
        return asyncio.run(self._events())

    async def _events(self) -> list[NoticeKey]:
        async with opened_log(self._settings) as log:
            return list(filter(None, map(_key, await noticed(log))))

    def _planned(self, campaign: Campaign, now_ms: int) -> Micros:
        """Return what the plans of a campaign's line items and its own let it have spent by now."""
        advertiser: Advertiser = self._advertisers[campaign.advertiser_id]
        zone = advertiser.timezone
        parts = 0
        for one in self._line_items[campaign.id]:
            today = plan(one.budget, one.flight, one.dayparts, zone, one.pacing, (), 0, now_ms)
            parts += today.planned_micros(now_ms) if today is not None and one.status == "active" else 0
        own = plan(campaign.budget, campaign.flight, (), zone, PacingMode.EVEN, (), 0, now_ms)
        return parts if own is None else min(parts, own.planned_micros(now_ms))

    def _budget(self, campaign: Campaign) -> Micros:
        bounds = [tightest(one.budget) for one in self._line_items[campaign.id] if one.status == "active"]
        parts = None if None in bounds else sum(bound or 0 for bound in bounds)
        return min((bound for bound in (parts, tightest(campaign.budget)) if bound is not None), default=0)


@asynccontextmanager
async def opened_log(settings: Platform) -> AsyncIterator[EventLog]:
    """Open a platform's event log for a while."""
    log = event_log(settings, SystemClock())
    await log.open()
    try:
        yield log
    finally:
        await log.close()


async def noticed(log: EventLog) -> list[Record]:
    """Return all records of the topic of notices."""
    records: list[Record] = []
    position: Position = {}
    while True:
        batch = await log.read(Topic.NOTICES, position, _BATCH)
        records += batch.records
        position = batch.position
        if batch.end:
            return records


def tightest(budget: Budget) -> Micros | None:
    """Return the least of a budget's bounds; None where it has none."""
    bounds = [bound for bound in (budget.daily_micros, budget.total_micros) if bound is not None]
    return min(bounds, default=None)


def _key(record: Record) -> NoticeKey | None:
    """Return a record's key, None where it is no notice: a drill puts in what cannot be read."""
    notice = decode_as(Notice, record.value)
    if notice is None:
        return None
    facts = notice.facts
    return NoticeKey(facts.exchange, facts.auction_id, facts.imp_id, notice.kind.value)
