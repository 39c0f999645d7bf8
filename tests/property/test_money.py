"""Any interleaving of reserve, release, bill, expire, sync, crash, reclaim, late and duplicate notices: no overspend.

Hypothesis looks for the interleaving, and shrinks what it finds to a few steps. The oracle checks after every one.
"""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from dsp.cache.port import Limit
from dsp.events.schema import BidFacts, NoticeKind
from loadtest.faults.platform import Owner, Platform, Process

#: A minute before a day of campaign 1 begins.
START_MS = 20_255 * 86_400_000 + 8 * 3_600_000 - 60_000
OWNERS = {1: Owner(1, "Etc/GMT+8"), 2: Owner(1, "Etc/GMT+8"), 3: Owner(2, "Asia/Karachi")}
LIMITS = [
    Limit(1, 1, 20_000, None, 40_000, 60_000),
    Limit(2, 1, None, 30_000, 40_000, 60_000),
    Limit(3, 2, None, 40_000, None, None),
]
which = st.integers(0, 7)


class MoneyMachine(RuleBasedStateMachine):
    @initialize(batch_records=st.sampled_from((1, 100)))
    def begin(self, batch_records: int) -> None:
        self.platform = Platform(START_MS, OWNERS, batch_records)
        self.platform.set_limits(LIMITS)
        self.bids: list[tuple[Process, BidFacts]] = []
        self.heard: set[str] = set()
        for name in ("one", "two"):
            self.platform.start(name)

    def process(self, number: int) -> Process:
        return self.platform.processes[number % len(self.platform.processes)]

    @rule(number=which, item=st.integers(1, 3), cost=st.integers(1, 15_000), ttl_ms=st.sampled_from((0, 3_000, 40_000)))
    def send_bids(self, number: int, item: int, cost: int, ttl_ms: int) -> None:
        for _ in range(3):
            process, auction_id = self.process(number), f"auction-{self.platform.bids}"
            facts = self.platform.bid(process, item, auction_id, cost * 1_000, ttl_ms, 1)
            if facts is not None:
                self.bids.append((process, facts))

    @precondition(lambda self: self.bids)
    @rule(
        index=st.integers(0, 50),
        number=which,
        kind=st.sampled_from((NoticeKind.BILL, NoticeKind.BILL, NoticeKind.LOSS)),
        part=st.sampled_from((500, 1_000)),
        at_once=st.sampled_from((True, True, False)),
    )
    def notice(self, index: int, number: int, kind: NoticeKind, part: int, at_once: bool) -> None:
        sender, facts = self.bids[-1 - index % len(self.bids)]
        receiver = sender if sender in self.platform.processes and number < 5 else self.process(number)
        clearing = facts.cost_micros_max * part if kind is NoticeKind.BILL else 0
        self.platform.accept(receiver, facts, kind, clearing)
        self.heard.add(facts.bid_id)
        if at_once:
            self.platform.flush(receiver)

    @precondition(lambda self: self.bids)
    @rule()
    def withdraw(self) -> None:
        process, facts = self.bids[-1]
        if facts.bid_id not in self.heard and not process.dead:
            self.platform.withdraw(process, facts)
            self.bids.pop()

    @rule(number=which, reaches=st.sampled_from((True, True, True, False)), seen=st.sampled_from((True, True, False)))
    def sync(self, number: int, reaches: bool, seen: bool) -> None:
        process = self.process(number)
        self.platform.look_at_answer(process)
        self.platform.send_sync(process, reaches_store=reaches)
        if seen:
            self.platform.look_at_answer(process)

    @rule(dies=st.sampled_from(("", "", "", "commit", "settle")))
    def ledger(self, dies: str) -> None:
        self.platform.ledger(dies_at_commit=dies == "commit", dies_at_settle=dies == "settle")

    @rule()
    def reclaim(self) -> None:
        self.platform.reclaim()

    @rule(ms=st.sampled_from((1, 500, 3_000, 45_000, 120_000)))
    def time_passes(self, ms: int) -> None:
        self.platform.world.at_ms += ms

    @rule(number=which, skew_ms=st.sampled_from((-300_000, -1_000, 0, 5_000, 300_000)))
    def clock_is_set(self, number: int, skew_ms: int) -> None:
        self.process(number).clock.skew_ms = skew_ms

    @rule(factor=st.sampled_from((0.0, 0.3, 1.0, 1.5)))
    def budgets_change(self, factor: float) -> None:
        bounds = [[None if bound is None else int(bound * factor) for bound in limit[2:]] for limit in LIMITS]
        self.platform.set_limits([Limit(*limit[:2], *bound) for limit, bound in zip(LIMITS, bounds, strict=True)])

    @rule(number=which, killed=st.booleans())
    def replaced(self, number: int, killed: bool) -> None:
        """A process dies, or it only seemed dead."""
        process = self.process(number)
        if killed or len(self.platform.processes) > 4:
            self.platform.kill(process)
        self.platform.start(process.name)

    def teardown(self) -> None:
        if not hasattr(self, "platform"):
            return
        try:
            for process in self.platform.processes:
                self.platform.flush(process)
            while self.platform.ledger():
                pass
            audit = self.platform.oracle.audit(
                self.platform.engine, {item: one.campaign_id for item, one in OWNERS.items()}
            )
            assert (audit.overspend_micros, audit.double_billed, audit.lost) == (0, 0, 0)
        finally:
            self.platform.close()


TestMoney = MoneyMachine.TestCase
TestMoney.settings = settings(
    max_examples=40, stateful_step_count=60, suppress_health_check=list(HealthCheck), derandomize=True
)
