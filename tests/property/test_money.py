"""Any interleaving of reserve, release, bill, expire, sync, crash, reclaim, late and duplicate notices: no overspend.

Hypothesis looks for the interleaving, and shrinks what it finds to a few steps.
"""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dsp.cache.port import Limit
from dsp.events.schema import NoticeKind
from tests.simulation.money_world import World

LIMITS = [
    Limit(1, 1, 20_000, None, 40_000, 60_000),
    Limit(2, 1, None, 30_000, 40_000, 60_000),
    Limit(3, 2, None, 40_000, None, None),
]
which = st.integers(0, 7)


class MoneyMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory()
        self.world = World(Path(self.directory.name), LIMITS)
        self.runner.run(self.world.begin())
        for name in ("one", "two"):
            self.runner.run(self.world.start(name))

    def process(self, number: int):  # type: ignore[no-untyped-def]
        return self.world.processes[number % len(self.world.processes)]

    @rule(number=which, item=st.integers(1, 3), cost=st.integers(1, 15_000), ttl_ms=st.sampled_from((0, 3_000, 40_000)))
    def bids(self, number: int, item: int, cost: int, ttl_ms: int) -> None:
        for _ in range(3):
            self.world.bid(self.process(number), item, cost, ttl_ms)

    @precondition(lambda self: self.world.bids)
    @rule(
        index=st.integers(0, 50),
        number=which,
        kind=st.sampled_from((NoticeKind.BILL, NoticeKind.BILL, NoticeKind.LOSS)),
        part=st.sampled_from((0.5, 1.0)),
        act=st.sampled_from((True, True, True, False)),
        at_once=st.sampled_from((True, True, False)),
    )
    def notice(self, index: int, number: int, kind: NoticeKind, part: float, act: bool, at_once: bool) -> None:
        bid = self.world.bids[-1 - index % len(self.world.bids)]
        cost = int(bid.facts.cost_micros_max * part) if kind is NoticeKind.BILL else 0
        owner = bid.process in self.world.processes and number < 5
        self.world.accept(bid, bid.process if owner else self.process(number), kind, cost, act=act)
        if at_once:
            self.world.append_accepted()

    @precondition(lambda self: self.world.bids)
    @rule()
    def withdraw(self) -> None:
        bid = self.world.bids[-1]
        if not self.world.heard_of(bid):
            self.world.withdraw(bid)

    @rule(number=which, reaches=st.sampled_from((True, True, True, False)), seen=st.sampled_from((True, True, False)))
    def sync(self, number: int, reaches: bool, seen: bool) -> None:
        process = self.process(number)
        self.world.look_at_answer(process)
        self.runner.run(self.world.send_sync(process, reaches_store=reaches))
        if seen:
            self.world.look_at_answer(process)

    @rule(limit=st.sampled_from((1, 100)), dies=st.sampled_from(("", "", "", "before_commit", "before_settle")))
    def ledger(self, limit: int, dies: str) -> None:
        self.world.append_accepted()
        self.runner.run(
            self.world.ledger(
                limit, dies_before_commit=dies == "before_commit", dies_before_settle=dies == "before_settle"
            )
        )

    @rule()
    def reclaim(self) -> None:
        self.runner.run(self.world.reclaim())

    @rule(ms=st.sampled_from((1, 200, 1_000, 6_000, 45_000, 120_000)))
    def time_passes(self, ms: int) -> None:
        self.world.clock.advance(ms)

    @rule(number=which, killed=st.booleans())
    def restart(self, number: int, killed: bool) -> None:
        """A process is replaced; if it was not killed it only seemed dead."""
        process = self.process(number)
        if len(self.world.processes) > 4:
            killed = True
        if killed:
            self.world.kill(process)
        self.runner.run(self.world.start(process.name))

    @invariant()
    def no_budget_can_be_overspent(self) -> None:
        if hasattr(self, "world"):
            assert self.world.overspend_possible_micros() == 0

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.world.append_accepted()
            self.runner.run(self.world.ledger(10**6))
            assert self.world.overspend_micros() == 0
            assert self.world.unaccounted_micros() == 0
        finally:
            self.runner.run(self.world.end())
            self.runner.close()
            self.directory.cleanup()


TestMoney = MoneyMachine.TestCase
TestMoney.settings = settings(
    max_examples=40, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
