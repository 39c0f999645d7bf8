"""What must be true of the money at every step, worked out anew from what happened and from nothing the platform says.

It sees bids leave, notices become durable, and the store's and the book's tables; it shares no code with what it judges
but the instant at which notices close and the names of the store's scopes.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable
from heapq import heappop, heappush
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session

from dsp.cache.port import Limit
from dsp.events.schema import BidFacts, Notice, NoticeKind
from dsp.kernel.money import Micros
from dsp.ledger.terms import closes_ms, late_lease_id
from dsp.store.book import BookRepository
from dsp.store.book_tables import BookTransactionRow

ALL_DAYS = -1
#: A budget: ("line_item" or "campaign", its id, the day or ALL_DAYS).
Scope = tuple[str, int, int]


class ViolationError(AssertionError):
    """Something about the money is wrong."""


class Effect(NamedTuple):
    """What one record of the log must do to the book; all 0 for nothing."""

    lease_id: str = ""
    line_item_id: int = 0
    day: int = 0
    impressions: int = 0
    charged_micros: Micros = 0
    late_micros: Micros = 0
    value_micros: Micros = 0  # of an impression that the budgets paid for
    late_value_micros: Micros = 0  # of one that was shown too, but is ours to pay
    came_late: bool = False


class Audit(NamedTuple):
    """The final figures; the first three must be 0."""

    overspend_micros: Micros
    double_billed: int
    lost: int
    value_micros: Micros  # of what the budgets paid for
    spend_micros: Micros
    late_micros: Micros  # of what came late and no budget paid for
    late_count: int
    late_value_micros: Micros
    late_charged_micros: Micros  # of what came late and the budgets paid for
    late_charged_count: int
    impressions: int


def scopes(line_item_id: int, campaign_id: int, day: int) -> tuple[Scope, ...]:
    """Return the budgets that a bid draws on."""
    return (
        ("line_item", line_item_id, day),
        ("line_item", line_item_id, ALL_DAYS),
        ("campaign", campaign_id, day),
        ("campaign", campaign_id, ALL_DAYS),
    )


def _billed(notice: Notice, charged: Micros, came_late: bool = False) -> Effect:
    """Return what the first billing notice of a bid does that the budgets pay `charged` for: all of it, or nothing."""
    facts = notice.facts
    return Effect(
        lease_id=facts.lease_id,
        line_item_id=facts.line_item_id,
        day=facts.day,
        impressions=1,
        charged_micros=charged,
        late_micros=notice.cost_micros - charged,
        value_micros=facts.value_micros if charged else 0,
        late_value_micros=0 if charged else facts.value_micros,
        came_late=came_late,
    )


class Oracle:
    """Follows every bid from the instant it leaves. Each method raises ViolationError for what must not be.

    A bid is open from leaving until the log decides or closes it; meanwhile its budgets and its lease must cover its
    maximum cost. That is stronger than no overspend: it fails at the first step that makes one possible.

    The log alone does not say whether a late win is paid for: that depends on what room there was. So the book may
    charge it or not. If it does, its budgets must cover it beside all that is open, and if it does not, though the
    lease store could have been asked, there must have been no room.
    """

    def __init__(self) -> None:
        self.effects: list[Effect] = []
        self._bounds: dict[Scope, Micros | None] = {}  # by day: ALL_DAYS stands for every day's bound
        self._daily: dict[tuple[str, int], Micros | None] = {}
        self._paused: set[int] = set()  # line items
        self._ceilings: dict[Scope, Micros] = {}  # of budgets lowered below what had been granted
        self._exposure: Counter[Scope] = Counter()
        self._by_lease: Counter[str] = Counter()
        self._granted: dict[str, tuple[int, int, int, Micros]] = {}
        self._used: Counter[Scope] = Counter()
        self._open: dict[str, BidFacts] = {}
        self._closing: list[tuple[int, str]] = []
        self._late: dict[int, Notice] = {}  # by their places in the log: they are yet to be entered
        self._billed: set[str] = set()
        self._released: set[str] = set()
        self._acknowledged: set[str] = set()
        self._floor_ms = 0
        self._unchecked: set[Scope] = set()  # what changed since their bounds were looked at
        self._days: dict[tuple[int, int], Counter[str]] = {}
        self._leases: Counter[str] = Counter()
        self._entered = 0

    # What happens

    def limited(self, limits: Iterable[Limit]) -> None:
        """The store has taken over these limits."""
        for limit in limits:
            self._bounds["line_item", limit.line_item_id, ALL_DAYS] = limit.total_micros
            self._bounds["campaign", limit.campaign_id, ALL_DAYS] = limit.campaign_total_micros
            self._daily["line_item", limit.line_item_id] = limit.daily_micros
            self._daily["campaign", limit.campaign_id] = limit.campaign_daily_micros
            (self._paused.discard if limit.active else self._paused.add)(limit.line_item_id)
        for scope, used in self._used.items():
            bound = self._bound(scope)
            if bound is not None and used > bound:
                self._ceilings[scope] = min(used, self._ceilings.get(scope, used))
            else:
                self._ceilings.pop(scope, None)
        self._unchecked.update(self._used)

    def left(self, facts: BidFacts) -> None:
        """A bid has left its process."""
        self._open[facts.bid_id] = facts
        heappush(self._closing, (closes_ms(facts.expires_at_ms), facts.bid_id))
        self._expose(facts, facts.cost_micros_max)
        self._close()
        if facts.bid_id in self._open:
            self._covered(facts)

    def withdrawn(self, facts: BidFacts) -> None:
        """A bid could not be sent after all."""
        if self._open.pop(facts.bid_id, None) is not None:
            self._expose(facts, -facts.cost_micros_max)

    def appended(self, notice: Notice, floor_ms: int) -> None:
        """A notice is durable, stamped `floor_ms`, and acknowledged; the first of a bid's that decides it counts."""
        self.passed(floor_ms)
        self._close()
        facts = notice.facts
        bid_id, found = facts.bid_id, self._open.pop(facts.bid_id, None)
        if notice.kind is NoticeKind.LOSS:
            if found is not None:
                self._released.add(bid_id)
                self._expose(facts, -facts.cost_micros_max)
            self.effects.append(Effect())
            return
        self._acknowledged.add(bid_id)
        if bid_id in self._billed:
            self.effects.append(Effect())
            return
        self._billed.add(bid_id)
        charged = 0
        if found is not None:
            charged = notice.cost_micros
            self._expose(facts, charged - facts.cost_micros_max)
        else:
            self._late[len(self.effects)] = notice
        self.effects.append(_billed(notice, charged))

    def passed(self, floor_ms: int) -> None:
        """The log's clock stands at `floor_ms`: no later stamp is before it."""
        self._floor_ms = max(self._floor_ms, floor_ms)

    # What must be true

    def store_is_right(self, sql: sqlite3.Connection, epoch: int | None = None) -> None:
        """Check that grants stay within limits, sum up, and cover what is out; of one epoch's leases, or of all."""
        query = "SELECT lease_id, line_item_id, campaign_id, day, granted FROM leases WHERE epoch = ifnull(?, epoch)"
        rows = sql.execute(query, (epoch,))
        self._close()
        for lease_id, line_item_id, campaign_id, day, granted in rows:
            before = self._granted.get(lease_id)
            change = granted - (before[3] if before is not None else 0)
            if change > 0 and line_item_id in self._paused and lease_id != late_lease_id(line_item_id, day):
                raise ViolationError(f"lease {lease_id}: {change} granted to a line item that is paused")
            if change:
                self._granted[lease_id] = (line_item_id, campaign_id, day, granted)
                for scope in scopes(line_item_id, campaign_id, day):
                    self._used[scope] += change
                    self._unchecked.add(scope)
            if self._by_lease[lease_id] > granted:
                raise ViolationError(f"lease {lease_id}: {self._by_lease[lease_id]} out, {granted} granted")
        for *names, micros in sql.execute("SELECT * FROM used"):
            if micros != self._used[tuple(names)]:
                raise ViolationError(f"{names}: {micros} used, leases sum to {self._used[tuple(names)]}")
        for scope in self._unchecked:
            micros, ceiling = self._used[scope], self._ceiling(scope)
            if ceiling is not None and micros > ceiling:
                raise ViolationError(f"{scope}: {micros} granted, {ceiling} allowed")
            if scope in self._ceilings:
                self._ceilings[scope] = micros
        self._unchecked.clear()

    def book_is_right(self, engine: Engine, *, store_answers: bool) -> None:
        """Check that the book says what the log says up to its position: each day's and each lease's sums.

        `store_answers`: whether the ledger could ask for room for what it has just entered.
        """
        with engine.connect() as sql:
            position = sql.exec_driver_sql("SELECT coalesce(max(next_offset), 0) FROM book_position").scalar_one()
            rows = sql.exec_driver_sql(
                "SELECT line_item_id, campaign_id, day, spend_micros, late_micros, impressions FROM book_day"
            ).fetchall()
            leases: dict[str, int] = dict(sql.exec_driver_sql("SELECT lease_id, micros FROM book_lease").fetchall())
            owed = self._see_late(sql, position)
        for effect in self.effects[self._entered : position]:
            if not effect.impressions:
                continue
            day = self._days.setdefault((effect.line_item_id, effect.day), Counter())
            day.update(spend=effect.charged_micros, late=effect.late_micros, impressions=1)
            if effect.charged_micros:
                self._leases[effect.lease_id] += effect.charged_micros
        self._entered = position
        days = {
            (line_item_id, day): Counter(spend=spend, late=late, impressions=impressions)
            for line_item_id, _, day, spend, late, impressions in rows
        }
        if days != self._days:
            raise ViolationError(f"the book has {days}, the log {self._days}")
        if leases != self._leases:
            raise ViolationError("the book's leases are not the log's")
        if excesses := self._excesses(tuple(row)[:4] for row in rows):
            raise ViolationError(f"spent beyond what is allowed: {excesses}")
        if store_answers:
            self._had_no_room(owed)

    def audit(self, engine: Engine, campaigns: dict[int, int]) -> Audit:
        """Return the final figures, from the book and the log alone; `campaigns` has each line item's."""
        with Session(engine) as session:
            book = BookRepository(session)
            rows = session.query(
                BookTransactionRow.bid_id, BookTransactionRow.exchange, BookTransactionRow.auction_id,
                BookTransactionRow.imp_id,
            ).all()  # fmt: skip
            days, imbalance = book.days(), book.imbalance()
        if imbalance:
            raise ViolationError(f"the book is out of balance by {imbalance}")
        spends = ((one.line_item_id, campaigns[one.line_item_id], one.day, one.spend_micros) for one in days)
        impressions = Counter((exchange, auction_id, imp_id) for _, exchange, auction_id, imp_id in rows)
        late = [effect for effect in self.effects if effect.late_micros]
        late_charged = [effect for effect in self.effects if effect.came_late and effect.charged_micros]
        return Audit(
            overspend_micros=sum(self._excesses(spends).values()),
            double_billed=sum(count - 1 for count in impressions.values()),
            lost=len(self._acknowledged - {row[0] for row in rows}),
            value_micros=sum(effect.value_micros for effect in self.effects),
            spend_micros=sum(one.spend_micros for one in days),
            late_micros=sum(effect.late_micros for effect in late),
            late_count=len(late),
            late_value_micros=sum(effect.late_value_micros for effect in late),
            late_charged_micros=sum(effect.charged_micros for effect in late_charged),
            late_charged_count=len(late_charged),
            impressions=len(rows),
        )

    def _bound(self, scope: Scope) -> Micros | None:
        kind, owner, day = scope
        return self._bounds.get(scope) if day == ALL_DAYS else self._daily.get((kind, owner))

    def _ceiling(self, scope: Scope) -> Micros | None:
        """Return what may be spent: the limit, or what had been granted before it was lowered, less what came back."""
        bound = self._bound(scope)
        return None if bound is None else max(bound, self._ceilings.get(scope, bound))

    def _excesses(self, spends: Iterable[tuple[int, int, int, Micros]]) -> dict[Scope, Micros]:
        """Return by how much budgets are exceeded by what line items, of campaigns, spent on days."""
        spent: Counter[Scope] = Counter()
        for line_item_id, campaign_id, day, micros in spends:
            for scope in scopes(line_item_id, campaign_id, day):
                spent[scope] += micros
        found = ((scope, self._ceiling(scope)) for scope in spent)
        return {scope: spent[scope] - most for scope, most in found if most is not None and spent[scope] > most}

    def _see_late(self, sql: Connection, position: int) -> list[Notice]:
        """Look which late wins up to a place in the log the book has charged; return those that it has not."""
        owed = []
        for place in [place for place in self._late if place < position]:
            notice = self._late.pop(place)
            facts = notice.facts
            charge = sql.exec_driver_sql(
                "SELECT lease_id, micros FROM book_transaction JOIN book_posting USING (bid_id)"
                " WHERE bid_id = ? AND account LIKE 'spend:%'",
                (facts.bid_id,),
            ).one_or_none()
            if charge is None:
                owed.append(notice)
                continue
            lease_id, micros = charge
            if lease_id in {facts.lease_id, ""} or micros != notice.cost_micros:
                raise ViolationError(f"late {facts.bid_id}: {micros} charged to lease {lease_id!r}")
            charged = msgspec.structs.replace(notice, facts=msgspec.structs.replace(facts, lease_id=lease_id))
            self.effects[place] = _billed(charged, micros, came_late=True)
            self._expose(charged.facts, micros)
            self._covered(charged.facts)
        return owed

    def _had_no_room(self, owed: Iterable[Notice]) -> None:
        for notice in owed:
            facts = notice.facts
            rest = [
                bound - self._used[scope]
                for scope in scopes(facts.line_item_id, facts.campaign_id, facts.day)
                if (bound := self._bound(scope)) is not None
            ]
            if min(rest, default=notice.cost_micros) >= notice.cost_micros:
                raise ViolationError(f"late {facts.bid_id} is owed, though there is room for {notice.cost_micros}")

    def _expose(self, facts: BidFacts, micros: Micros) -> None:
        self._by_lease[facts.lease_id] += micros
        for scope in scopes(facts.line_item_id, facts.campaign_id, facts.day):
            self._exposure[scope] += micros

    def _close(self) -> None:
        """Forget the bids that nothing can be charged for any more."""
        while self._closing and self._closing[0][0] <= self._floor_ms:
            facts = self._open.pop(heappop(self._closing)[1], None)
            if facts is not None:
                self._expose(facts, -facts.cost_micros_max)

    def _covered(self, facts: BidFacts) -> None:
        granted = self._granted.get(facts.lease_id, (0, 0, 0, 0))[3]
        if self._by_lease[facts.lease_id] > granted:
            raise ViolationError(f"lease {facts.lease_id}: {self._by_lease[facts.lease_id]} out, {granted} granted")
        for scope in scopes(facts.line_item_id, facts.campaign_id, facts.day):
            ceiling = self._ceiling(scope)
            if ceiling is not None and self._exposure[scope] > ceiling:
                raise ViolationError(f"{scope}: {self._exposure[scope]} spent or out, {ceiling} allowed")
