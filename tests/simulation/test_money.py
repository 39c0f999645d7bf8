"""Seeded money with kills, pauses, lost answers, duplicates, contradictions and late notices: overspend is 0."""

import random
from pathlib import Path

import pytest

from dsp.cache.port import Limit
from dsp.events.schema import NoticeKind
from tests.simulation.money_world import Bid, Process, World

#: So small that money is short all the time; they are raised as the simulation goes on.
LIMITS = [
    Limit(1, 1, 60_000, None, 120_000, 250_000),
    Limit(2, 1, None, 90_000, 120_000, 250_000),
    Limit(3, 2, None, 150_000, None, None),
]


class Chooser:
    """Decides everything that happens from one seed."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.random = random.Random(seed)
        self.names = iter(f"bidder-{number}" for number in range(10**6))

    async def tick(self, trouble: float) -> None:
        """Let 200 ms pass; `trouble` is the chance of each kind of trouble."""
        world = self.world
        world.clock.advance(self.random.randint(100, 300))
        await self._processes(trouble)
        for process in list(world.processes):
            if process.paused:
                continue
            if self.random.random() < 0.5:
                world.look_at_answer(process)
            if process.answer is None and self.random.random() < 0.25:
                lost, unanswered = (self._chance(trouble * 3) for _ in range(2))
                await world.send_sync(process, reaches_store=not lost, answered=not unanswered)
            for _ in range(self.random.randint(0, 6)):
                cost = self.random.randint(1_000, 12_000)
                bid = world.bid(process, self.random.randint(1, 3), cost, self.random.randint(1_000, 40_000))
                if bid is not None and self._chance(0.02):
                    world.withdraw(bid)
        self._exchange(trouble)
        if self.random.random() < 0.3:
            await world.ledger(
                self.random.choice((5, 1_000)),
                dies_before_commit=self._chance(trouble),
                dies_before_settle=self._chance(trouble),
            )
        if self.random.random() < 0.05:
            await world.reclaim()
        if self.random.random() < 0.01:
            await world.raise_limits(1.1)

    async def _processes(self, trouble: float) -> None:
        world = self.world
        for process in list(world.processes):
            if self._chance(trouble / 8):
                world.kill(process)
                if self._chance(0.5):
                    await world.start(process.name)
            elif self._chance(trouble / (20 if process.paused else 8)):
                process.paused = not process.paused
                if process.paused and self._chance(0.3):
                    await world.start(process.name)  # taken for dead, replaced; it will wake up
        if self._chance(trouble / 20):
            world.clock.advance(self.random.choice((15_000, 31_000, 90_000)))
        running = [process for process in world.processes if not process.paused]
        if len(running) < 3 and (not running or self._chance(0.02)):
            await world.start(next(self.names))

    def _exchange(self, trouble: float) -> None:
        world = self.world
        receivers = [process for process in world.processes if not process.paused]
        for bid in list(world.bids):
            dice = self.random.random()
            if dice < 0.08:
                self._send(bid, receivers, NoticeKind.BILL, trouble)
            elif dice < 0.16:
                self._send(bid, receivers, NoticeKind.LOSS, trouble)
            elif dice < 0.161 and world.clock.now_ms() > bid.facts.expires_at_ms + 60_000:
                world.bids.remove(bid)  # never heard of again
        if not self._chance(trouble * 4):
            world.append_accepted()

    def _send(self, bid: Bid, receivers: list[Process], kind: NoticeKind, trouble: float) -> None:
        if not receivers:
            return
        usual = bid.process in receivers and not self._chance(0.2)
        receiver = bid.process if usual else self.random.choice(receivers)
        cost = self.random.randint(bid.facts.cost_micros_max // 2, bid.facts.cost_micros_max)
        self.world.accept(bid, receiver, kind, cost if kind is NoticeKind.BILL else 0, act=not self._chance(trouble))
        if not self._chance(trouble * 4):  # else the bid stays, to be noticed again: duplicate or contradictory
            self.world.bids.remove(bid)

    def _chance(self, probability: float) -> bool:
        return self.random.random() < probability


@pytest.mark.parametrize("seed", range(4))
async def test_no_budget_is_overspent_and_nothing_is_lost_whatever_dies(tmp_path: Path, seed: int) -> None:
    world = World(tmp_path, LIMITS)
    await world.begin()
    chooser = Chooser(world, seed)
    for step in range(900):
        await chooser.tick(trouble=(0.0, 0.02, 0.1)[step // 100 % 3])
        assert world.overspend_possible_micros() == 0
    world.append_accepted()
    await world.ledger(10**6)
    assert world.overspend_micros() == 0
    assert world.unaccounted_micros() == 0
    assert world.spend_micros({1, 2, 3}) > 100_000  # it did bid
    await world.end()


@pytest.mark.parametrize("bidders", [1, 3])
async def test_a_budget_that_is_hit_is_spent_to_the_last_percent(tmp_path: Path, bidders: int) -> None:
    world = World(tmp_path, [Limit(1, 1, None, 800_000, None, None)])
    await world.begin()
    chooser = random.Random(bidders)
    for number in range(bidders):
        await world.start(f"bidder-{number}")
    for step in range(1_500):
        world.clock.advance(100)
        for process in world.processes:
            world.bid(process, 1, chooser.randint(2_000, 6_000), 30_000)
            if step % 10 == 0:
                world.look_at_answer(process)
                await world.send_sync(process)
        for bid in [bid for bid in world.bids if chooser.random() < 0.2]:
            world.bids.remove(bid)
            if chooser.random() < 0.97:  # some losses are never reported
                kind = NoticeKind.BILL if chooser.random() < 0.3 else NoticeKind.LOSS
                world.accept(bid, bid.process, kind, bid.facts.cost_micros_max * 4 // 5)
        world.append_accepted()
        if step % 5 == 0:
            await world.ledger(1_000)
    assert world.overspend_micros() == 0
    assert world.spend_micros({1}) >= 0.99 * 800_000
    await world.end()


async def test_the_same_seed_gives_the_same_day(tmp_path: Path) -> None:
    days = []
    for run in ("one", "two"):
        (tmp_path / run).mkdir()
        world = World(tmp_path / run, LIMITS)
        await world.begin()
        chooser = Chooser(world, 99)
        for _ in range(200):
            await chooser.tick(trouble=0.05)
        days.append(list(world.records))
        await world.end()
    assert days[0] == days[1]
    assert len(days[0]) > 20


async def test_without_a_ledger_bidding_stops(tmp_path: Path) -> None:
    world = World(tmp_path, LIMITS)
    await world.begin()
    process = await world.start("bidder")
    bids = []
    for _ in range(300):
        world.clock.advance(500)
        await world.send_sync(process)
        world.look_at_answer(process)
        bids.append(sum(world.bid(process, 3, 10_000, 10_000) is not None for _ in range(5)))
    assert sum(bids) * 10_000 == 150_000  # once through the budget, although every bid has long expired
    assert bids[-1] == 0
    await world.end()


async def test_a_process_that_wakes_after_its_lease_was_reclaimed_reserves_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, LIMITS)
    await world.begin()
    sleeper, heir = await world.start("sleeper"), await world.start("heir")
    world.bid(sleeper, 3, 5_000, 10_000)
    await world.send_sync(sleeper)
    world.look_at_answer(sleeper)
    assert world.bid(sleeper, 3, 5_000, 10_000) is not None
    world.clock.advance(1_000)
    await world.send_sync(sleeper)  # paused before it looks at the answer
    world.clock.advance(600_000)
    await world.ledger(10)
    assert await world.reclaim() > 0
    for _ in range(20):  # the heir takes all there is
        world.clock.advance(1_000)
        world.bid(heir, 3, 5_000, 10_000)
        await world.send_sync(heir)
        world.look_at_answer(heir)
        while world.bid(heir, 3, 5_000, 10_000) is not None:
            pass
    world.look_at_answer(sleeper)
    assert world.bid(sleeper, 3, 5_000, 10_000) is None
    assert world.overspend_possible_micros() == 0
    await world.send_sync(sleeper)  # refused: it registers anew, with nothing
    assert world.bid(sleeper, 3, 5_000, 10_000) is None
    assert world.overspend_possible_micros() == 0
    await world.end()


async def test_a_notice_that_takes_too_long_into_the_log_is_not_charged(tmp_path: Path) -> None:
    world = World(tmp_path, LIMITS)
    await world.begin()
    process = await world.start("bidder")
    world.bid(process, 3, 5_000, 10_000)
    await world.send_sync(process)
    world.look_at_answer(process)
    bid = world.bid(process, 3, 5_000, 10_000)
    assert bid is not None
    world.accept(bid, process, NoticeKind.BILL, 4_000)  # in time, but the disk is slow
    world.clock.advance(20_000)
    await world.ledger(10)
    await world.send_sync(process)
    world.look_at_answer(process)
    assert process.book.reservations == 0
    world.append_accepted()
    await world.ledger(10)
    assert world.spend_micros({3}) == 0
    assert world.unaccounted_micros() == 0
    await world.end()
