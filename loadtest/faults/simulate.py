"""Runs one seed. Whatever is drawn comes from the seed, and a digest sums up all that happened."""

from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from random import Random
from typing import NamedTuple

from sqlalchemy.orm import Session

from dsp.catalog.status import Status
from dsp.catalog.terms import Budget
from dsp.events.schema import BidFacts, NoticeKind
from dsp.kernel.money import Micros
from dsp.pacing.controller import Controls, Law
from dsp.pacing.traffic import Curves
from dsp.store.book import BookRepository
from dsp.workers.controls import next_controls
from dsp.workers.snapshot import limits
from loadtest.faults.bidders import Bidders
from loadtest.faults.market import (
    CAMPAIGN_OF,
    DURATION_MS,
    OWNERS,
    START_MS,
    Auction,
    auctions,
    catalogue,
    with_campaign,
    with_line_item,
)
from loadtest.faults.oracle import Audit
from loadtest.faults.plan import BALANCER_MS, PROCESSES, Faults
from loadtest.faults.platform import Platform
from loadtest.faults.schedule import Schedule

LEDGER_MS = 8_000
PACING_MS = 5_000
RECLAIM_MS = 5_000
TELL_MS = 200
FLUSH_MS = 20
RETRY_MS = 1_000
NOTICE_TRIES = 10
TMAX_MS = 250
#: After the last auction notices still come, and the ledger reads on to the end.
AFTER_MS = 125_000


class Outcome(NamedTuple):
    """One run of one seed."""

    audit: Audit
    digest: str


class Simulation:
    """One seed with the given faults. `trace` is told every line that goes into the digest."""

    def __init__(self, seed: int, faults: Faults, trace: Callable[[str], object] | None = None) -> None:
        self._seed = seed
        self._faults = faults
        self._trace = trace
        self._chance = Random(f"chance {seed}")  # noqa: S311 - to be reproduced, not kept secret
        self._digest = blake2b(digest_size=16)
        self._platform = Platform(START_MS, OWNERS)
        self._schedule = Schedule(self._platform.world)
        self._bidders = Bidders(
            self._platform, self._schedule, self._chance, faults.chances, faults.skews_ms, self._bid, self._say
        )
        self._catalogue = catalogue()
        self._told = True
        self._ledger_away = False
        self._ledger_kills = 0

    def run(self) -> Outcome:
        """Run to the end and return the final figures; raises oracle.ViolationError at the first wrong step."""
        try:
            self._plan()
            for auction in auctions(self._seed):
                self._schedule.until(auction.at_ms)
                self._bidders.auction(auction)
            self._schedule.until(START_MS + DURATION_MS + BALANCER_MS)
            self._bidders.ended = True
            self._schedule.until(START_MS + DURATION_MS + AFTER_MS)
            audit = self._platform.oracle.audit(self._platform.engine, CAMPAIGN_OF)
            self._say(f"{audit}")
            return Outcome(audit, self._digest.hexdigest())
        finally:
            self._platform.close()

    def _say(self, line: str) -> None:
        text = f"{self._platform.world.at_ms - START_MS} {line}\n"
        self._digest.update(text.encode())
        if self._trace is not None:
            self._trace(text)

    def _plan(self) -> None:
        faults, schedule = self._faults, self._schedule
        self._platform.ledger_clock.skew_ms = faults.ledger_skew_ms
        self._platform.set_limits(limits(self._catalogue))
        for slot in range(PROCESSES):
            self._bidders.start(slot)
        schedule.every(LEDGER_MS, self._ledger)
        schedule.every(PACING_MS, self._pace)
        schedule.every(RECLAIM_MS, self._reclaim)
        schedule.every(TELL_MS, self._tell)
        for span in faults.kills:
            schedule.at(span.at_ms, partial(self._bidders.kill, span))
        for span in faults.pauses:
            schedule.at(span.at_ms, partial(self._bidders.pause, span))
        for span in faults.grantor:
            schedule.at(span.at_ms, partial(self._grantor, away=True))
            schedule.at(span.at_ms + span.for_ms, partial(self._grantor, away=False))
        for span in faults.ledger:
            schedule.at(span.at_ms, partial(self._stop_ledger, away=True))
            schedule.at(span.at_ms + span.for_ms, partial(self._stop_ledger, away=False))
        for at_ms in faults.ledger_kills:
            schedule.at(at_ms, self._kill_ledger)
        for step in faults.steps:
            schedule.at(step.at_ms, partial(self._bidders.step_clock, step.slot, step.by_ms))
        self._plan_changes()

    def _plan_changes(self) -> None:
        """What people do to budgets, the same with faults and without."""
        chance = Random(f"changes {self._seed}")  # noqa: S311 - to be reproduced, not kept secret
        found = self._catalogue

        def change(at_second: int, number: int, **terms: object) -> None:
            at_ms = START_MS + 1_000 * (at_second + chance.randrange(20))
            self._schedule.at(at_ms, partial(self._change, number, terms))

        total = found.line_items[2].budget.total_micros or 0
        change(190, 1, status=Status.PAUSED)
        change(330, 1, status=Status.ACTIVE)
        change(390, 3, budget=Budget(total_micros=total // 20))  # below what is spent
        change(570, 3, budget=Budget(total_micros=total))
        change(630, 2, budget=Budget(total_micros=1_200_000 + chance.randrange(450_000)))
        change(900, -1, budget=Budget(total_micros=1_200_000))  # the campaign's, below what is spent
        change(1050, -1, budget=Budget(total_micros=2_500_000))

    def _change(self, number: int, terms: dict[str, object]) -> None:
        with_changes = with_line_item if number > 0 else with_campaign
        self._catalogue = with_changes(self._catalogue, abs(number), **terms)
        self._say(f"change {number} {terms}")
        self._told = False
        self._tell()

    def _tell(self) -> None:
        """Do as the snapshot worker: the store first, then the bidders."""
        if self._told or not self._platform.set_limits(limits(self._catalogue)):
            return
        paused = {one.id for one in self._catalogue.line_items if one.status is not Status.ACTIVE}
        self._bidders.paused_line_items = frozenset(paused)
        self._told = True

    # Workers

    def _ledger(self) -> None:
        if not self._ledger_away:
            self._platform.ledger()

    def _kill_ledger(self) -> None:
        self._ledger_kills += 1
        at_commit = self._ledger_kills % 2 == 0
        self._say(f"kill ledger {at_commit}")
        self._platform.ledger(dies_at_commit=at_commit, dies_at_settle=not at_commit)

    def _stop_ledger(self, *, away: bool) -> None:
        self._say(f"ledger away {away}")
        self._ledger_away = away

    def _grantor(self, *, away: bool) -> None:
        self._say(f"grantor away {away}")
        self._platform.store.file.away = away

    def _pace(self) -> None:
        with Session(self._platform.engine) as session:
            days = BookRepository(session).days()
        now_ms = self._platform.ledger_clock.now_ms()
        before: Controls = self._bidders.controls
        self._bidders.controls = next_controls(self._catalogue, days, before, Curves(), Law(), now_ms)

    def _reclaim(self) -> None:
        reclaimed = self._platform.reclaim()
        if reclaimed:
            self._say(f"reclaimed {reclaimed}")

    # The exchange

    def _bid(self, auction: Auction, facts: BidFacts) -> None:
        """Decide an auction, and plan the notices that tell of it, with all that can become of them."""
        chance, chances = self._chance, self._faults.chances
        highest = max(auction.market_micros_cpm, auction.floor_micros_cpm)
        won = facts.price_micros_cpm > highest
        if self._platform.world.at_ms - auction.at_ms > TMAX_MS:  # a process was paused over it
            won = won and chance.random() < 0.5  # some exchanges wait longer than they say
        kind, clearing = (NoticeKind.BILL, facts.price_micros_cpm) if won else (NoticeKind.LOSS, 0)
        if won and not auction.first_price:
            clearing = highest
        if (not won and auction.silent) or chance.random() < chances.notice_lost:
            return
        delay_ms = auction.notice_delay_ms
        if chance.random() < chances.notice_late:
            delay_ms += chance.randint(20_000, 120_000)
        if won and chance.random() < chances.loss_before_bill:
            self._notify(facts, NoticeKind.LOSS, 0, delay_ms // 2, auction.notice_slot + 1)
        self._notify(facts, kind, clearing, delay_ms, auction.notice_slot)
        if chance.random() < chances.notice_twice:
            again_ms = delay_ms + chance.choice((0, 5, 3_000, 60_000))
            slot = auction.notice_slot + chance.randrange(PROCESSES)
            self._schedule.after(again_ms, partial(self._send, facts, kind, clearing, slot))

    def _send(self, facts: BidFacts, kind: NoticeKind, clearing: Micros, slot: int) -> None:
        process = self._bidders.receiver(slot % PROCESSES)
        if process is not None:
            self._bidders.do(process, partial(self._platform.accept, process, facts, kind, clearing))
            flush = partial(self._platform.flush, process)
            self._schedule.after(FLUSH_MS, partial(self._bidders.do, process, flush))

    def _notify(self, facts: BidFacts, kind: NoticeKind, clearing: Micros, delay_ms: int, slot: int) -> None:
        self._schedule.after(delay_ms, partial(self._deliver, facts, kind, clearing, slot, NOTICE_TRIES))

    def _deliver(self, facts: BidFacts, kind: NoticeKind, clearing: Micros, slot: int, tries: int) -> None:
        """Deliver a notice; one that is not acknowledged within a second is sent again, elsewhere."""
        if (facts.bid_id, kind) in self._platform.durable:
            return
        self._send(facts, kind, clearing, slot)
        if tries:
            again = partial(self._deliver, facts, kind, clearing, slot + 1, tries - 1)
            self._schedule.after(RETRY_MS, again)
