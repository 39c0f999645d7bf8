"""The sixteen processes: who is up, what a balancer sends where, auctions, bids and syncs."""

from collections.abc import Callable
from functools import partial
from random import Random

import numpy as np

from bidder.offer import Candidates
from dsp.events.schema import BidFacts
from dsp.funnel import Selection
from dsp.kernel.errors import UnavailableError
from dsp.kernel.money import Micros
from dsp.pacing.bids import pace
from dsp.pacing.columns import align, paced
from dsp.pacing.controller import Controls
from dsp.pricing.bid import price
from loadtest.faults.market import START_MS, Auction
from loadtest.faults.plan import BALANCER_MS, PROCESSES, REPLACED_AFTER_MS, Chances, Span
from loadtest.faults.platform import Platform, Process
from loadtest.faults.schedule import Event, Schedule

SYNC_MS = 2_000
EARLY_SYNC_MS = 50
SYNC_TIMEOUT_MS = 3_000
#: What has queued up for a paused process; it answers that first when it wakes, with the lease it had.
QUEUE_MAX = 8
#: A woken process whose name has been taken lives on for so long before somebody ends it.
ZOMBIE_MS = 3_000
SHADE = 0.85
BID_MAX_MICROS_CPM = 20_000_000


class Bidders:
    """Runs the processes. `sent` is told of every bid that leaves, `say` of everything."""

    def __init__(
        self,
        platform: Platform,
        schedule: Schedule,
        chance: Random,
        chances: Chances,
        skews_ms: tuple[int, ...],
        sent: Callable[[Auction, BidFacts], None],
        say: Callable[[str], None],
    ) -> None:
        self._platform = platform
        self._schedule = schedule
        self._chance = chance
        self._chances = chances
        self._skews_ms = list(skews_ms)
        self._sent = sent
        self._say = say
        self._slots: list[Process | None] = [None] * PROCESSES
        self._down_since_ms = [START_MS - BALANCER_MS] * PROCESSES
        self._queued: dict[Process, list[Event]] = {}
        self._syncing: set[Process] = set()
        self.controls = Controls(at_ms=0)
        self.paused_line_items: frozenset[int] = frozenset()
        self.ended = False  # there is nothing more to bid for; notices are still heard

    # Who is up

    def start(self, slot: int) -> None:
        """Start a slot's process, or try again in a second."""
        name = f"bidder-{slot}"
        try:
            process = self._platform.start(name, self._skews_ms[slot])
        except UnavailableError:
            self._schedule.after(1_000, partial(self.start, slot))
            return
        self._say(f"start {name} {process.book.epoch}")
        self._slots[slot] = process
        self._schedule.after(EARLY_SYNC_MS + 60 * slot, partial(self._sync, process))

    def kill(self, span: Span) -> None:
        """Kill a slot's process; another takes its place in a while."""
        process = self._slots[span.slot]
        if process is None or process.paused:
            return
        self._say(f"kill {process.name}")
        self._end(process)
        self._schedule.after(span.for_ms, partial(self.start, span.slot))

    def pause(self, span: Span) -> None:
        """Pause a slot's process; it may be taken for dead and replaced before it wakes."""
        process = self._slots[span.slot]
        if process is None or process.paused:
            return
        self._say(f"pause {process.name}")
        process.paused = True
        self._queued[process] = []
        self._down_since_ms[span.slot] = self._now_ms
        if span.replaced and span.for_ms > REPLACED_AFTER_MS:
            self._schedule.after(REPLACED_AFTER_MS, partial(self.start, span.slot))
        self._schedule.after(span.for_ms, partial(self._wake, process))

    def step_clock(self, slot: int, by_ms: int) -> None:
        """Set the wall clock of a slot's machine."""
        self._skews_ms[slot] += by_ms
        process = self._slots[slot]
        if process is not None:
            process.clock.skew_ms = self._skews_ms[slot]

    def receiver(self, slot: int) -> Process | None:
        """Return the process that the balancer sends to for a slot now; None where nobody answers."""
        for number in range(slot, slot + PROCESSES):
            process = self._slots[number % PROCESSES]
            if process is not None and not process.paused:
                return process
            if self._now_ms - self._down_since_ms[number % PROCESSES] < BALANCER_MS:
                return process
        return None

    def do(self, process: Process, what: Event) -> None:
        """Let a process do something now, or when it wakes."""
        if process.paused:
            self._queued[process].append(what)
        elif not process.dead:
            what()

    def _wake(self, process: Process) -> None:
        if process.dead:
            return
        self._say(f"wake {process.name}")
        process.paused = False
        for what in self._queued.pop(process):
            what()
        self._syncing.discard(process)
        self._sync(process)
        if process not in self._slots:
            self._schedule.after(ZOMBIE_MS, partial(self._end, process))

    def _end(self, process: Process) -> None:
        if process.dead:
            return
        self._platform.kill(process)
        self._queued.pop(process, None)
        if process in self._slots:
            slot = self._slots.index(process)
            self._slots[slot], self._down_since_ms[slot] = None, self._now_ms

    @property
    def _now_ms(self) -> int:
        return self._platform.world.at_ms

    # What they do

    def auction(self, auction: Auction) -> None:
        """Send an auction to the process whose turn it is."""
        process = self.receiver(auction.slot % PROCESSES)
        if process is not None and len(self._queued.get(process, ())) < QUEUE_MAX:
            self.do(process, partial(self._answer, process, auction))

    def _answer(self, process: Process, auction: Auction) -> None:
        def take(priced: Candidates, place: int, again: bool) -> Micros | None:
            number, price = auction.line_item_ids[place], int(priced.price_micros_cpm[place])
            value = int(auction.values_micros_cpm[place] / 1_000)
            facts = self._platform.bid(process, number, auction.id, price, auction.ttl_ms, value, again)
            if facts is None:
                return self._platform.payable(process, number)
            self._say(f"bid {facts.bid_id} {process.name} {facts.line_item_id} {facts.cost_micros_max}")
            self._sent(auction, facts)
            return None

        self._candidates(process, auction).place(take)
        if process.book.begun and process not in self._syncing:
            self._schedule.after(EARLY_SYNC_MS, partial(self._sync_early, process))

    def _candidates(self, process: Process, auction: Auction) -> Candidates:
        """Price an impression for all that may bid, by the pacing that is published."""
        numbers, count = np.array(auction.line_item_ids, dtype=np.int64), len(auction.line_item_ids)
        value, floors = np.array(auction.values_micros_cpm), np.full(count, auction.floor_micros_cpm)
        first_price, none, rows = np.full(count, auction.first_price), np.zeros(count, dtype=np.int64), np.arange(count)
        now_ms = process.clock.now_ms()
        controls = align(paced(self.controls), numbers)
        multiplier = pace(value, rows, controls, numbers, floors, none, auction.lot, now_ms)
        multiplier[np.isin(numbers, list(self.paused_line_items))] = 0.0
        most = np.full(count, BID_MAX_MICROS_CPM)
        prices = price(value, multiplier, floors, first_price, SHADE, none, most)
        selection = Selection(rows, rows, floors, first_price, np.zeros(count, dtype=np.bool_), (None,) * count)
        return Candidates(selection, value, value, value, multiplier, prices, none)

    def _sync_early(self, process: Process) -> None:
        if process.book.begun:
            self.do(process, partial(self._exchange_sync, process))

    def _sync(self, process: Process) -> None:
        """Sync again and again for as long as the process lives."""
        if process.dead or process.paused or self.ended:
            return
        self._exchange_sync(process)
        self._schedule.after(SYNC_MS, partial(self._sync, process))

    def _exchange_sync(self, process: Process) -> None:
        if process in self._syncing:
            return
        chance, chances = self._chance, self._chances
        lost, unanswered = chance.random() < chances.sync_lost, chance.random() < chances.answer_lost
        slow = chance.random() < chances.answer_slow
        try:
            known = self._platform.send_sync(process, reaches_store=not lost, answered=not unanswered)
        except UnavailableError:
            return
        if not known:
            self._say(f"fenced {process.name}")
            return
        self._syncing.add(process)
        delay_ms = chance.randint(3, 20) if not slow else chance.randint(500, 10_000)
        delay_ms = SYNC_TIMEOUT_MS if process.answer is None else delay_ms
        self._schedule.after(delay_ms, partial(self.do, process, partial(self._end_sync, process)))

    def _end_sync(self, process: Process) -> None:
        self._platform.look_at_answer(process)
        self._syncing.discard(process)
