"""Money in short stories: what is spent where nothing goes wrong, and what stops where something does."""

from collections.abc import Iterator
from random import Random

import pytest

from dsp.cache.port import Limit
from dsp.events.schema import BidFacts, NoticeKind
from loadtest.faults.platform import HOLDER_TIMEOUT_MS, Owner, Platform, Process

START_MS = 20_255 * 86_400_000
OWNERS = {1: Owner(1, "America/New_York"), 2: Owner(1, "America/New_York"), 3: Owner(2, "Asia/Kolkata")}
LIMITS = [
    Limit(1, 1, 60_000, None, 120_000, 250_000),
    Limit(2, 1, None, 90_000, 120_000, 250_000),
    Limit(3, 2, None, 150_000, None, None),
]


@pytest.fixture
def platform() -> Iterator[Platform]:
    platform = Platform(START_MS, OWNERS)
    platform.set_limits(LIMITS)
    yield platform
    platform.close()


def bid(
    platform: Platform, process: Process, cost: int, ttl_ms: int = 10_000, line_item_id: int = 3
) -> BidFacts | None:
    return platform.bid(process, line_item_id, f"auction-{platform.bids}", cost * 1_000, ttl_ms, 1)


def sync(platform: Platform, *processes: Process) -> None:
    for process in processes:
        platform.send_sync(process)
        platform.look_at_answer(process)


def tell(platform: Platform, process: Process, facts: BidFacts, kind: NoticeKind, cost: int = 0) -> None:
    platform.accept(process, facts, kind, cost * 1_000)
    platform.flush(process)


def spend(platform: Platform) -> int:
    return sum(effect.charged_micros for effect in platform.oracle.effects)


@pytest.mark.parametrize("bidders", [1, 3])
def test_a_budget_that_is_hit_is_spent_to_the_last_percent(platform: Platform, bidders: int) -> None:
    platform.set_limits([Limit(3, 2, None, 800_000, None, None)])
    chance = Random(bidders)
    processes = [platform.start(f"bidder-{number}") for number in range(bidders)]
    out: list[tuple[Process, BidFacts]] = []
    for step in range(1_500):
        platform.world.at_ms += 100
        for process in processes:
            made = bid(platform, process, chance.randint(2_000, 6_000), 30_000)
            out += [(process, made)] if made is not None else []
            if step % 10 == 0:
                sync(platform, process)
        for one in [one for one in out if chance.random() < 0.2]:
            out.remove(one)
            if chance.random() < 0.97:  # some losses are never reported
                kind = NoticeKind.BILL if chance.random() < 0.3 else NoticeKind.LOSS
                tell(platform, *one, kind, one[1].cost_micros_max * 4 // 5)
        if step % 5 == 0:
            platform.ledger()
    audit = platform.oracle.audit(platform.engine, {3: 2})
    assert audit.overspend_micros == 0
    assert audit.spend_micros >= 0.99 * 800_000


def test_without_a_ledger_bidding_stops(platform: Platform) -> None:
    process = platform.start("bidder")
    bids = []
    for _ in range(300):
        platform.world.at_ms += 500
        sync(platform, process)
        bids.append(sum(bid(platform, process, 10_000) is not None for _ in range(5)))
    assert sum(bids) * 10_000 == 150_000  # once through the budget, although every bid has long expired
    assert bids[-1] == 0


def test_while_the_grantor_is_away_bidding_goes_on_from_the_lease_and_then_stops(platform: Platform) -> None:
    platform.set_limits([Limit(3, 2, None, 10**9, None, None)])
    process = platform.start("bidder")

    def minute() -> int:
        made = 0
        for _ in range(60):
            platform.world.at_ms += 1_000
            sync(platform, process)
            made += sum(bid(platform, process, 2_000) is not None for _ in range(3))
            platform.ledger()
        return made

    minute()
    platform.store.file.away = True
    assert minute() == 180  # the budget has plenty, so the lease lasts
    assert (minute(), minute()) < (60, 1)
    platform.store.file.away = False
    assert minute() > 150


def test_a_process_that_wakes_after_its_lease_was_reclaimed_reserves_nothing(platform: Platform) -> None:
    sleeper, heir = platform.start("sleeper"), platform.start("heir")
    bid(platform, sleeper, 5_000)
    sync(platform, sleeper)
    assert bid(platform, sleeper, 5_000) is not None
    platform.world.at_ms += 1_000
    platform.send_sync(sleeper)  # paused before it looks at the answer
    platform.reclaim()
    for _ in range(20):
        platform.world.at_ms += HOLDER_TIMEOUT_MS
        sync(platform, heir)
        platform.ledger()
        platform.reclaim()
    for _ in range(20):  # the heir takes all there is
        platform.world.at_ms += 1_000
        bid(platform, heir, 5_000)
        sync(platform, heir)
        while bid(platform, heir, 5_000) is not None:
            pass
    assert heir.book.reserved_micros == 150_000
    platform.look_at_answer(sleeper)
    assert bid(platform, sleeper, 5_000) is None
    assert not platform.send_sync(sleeper)  # refused: it registers anew, with nothing
    assert bid(platform, sleeper, 5_000) is None


@pytest.mark.parametrize("room", [3_999, 4_000])
def test_a_notice_that_takes_too_long_into_the_log_is_charged_only_where_there_is_room(
    platform: Platform, room: int
) -> None:
    process = platform.start("bidder")
    bid(platform, process, 5_000)
    sync(platform, process)
    made = bid(platform, process, 5_000)
    assert made is not None
    platform.accept(process, made, NoticeKind.BILL, 4_000_000)  # in time, but the disk is slow
    platform.world.at_ms += 20_000
    platform.ledger()
    sync(platform, process)
    assert process.book.reservations == 0
    platform.set_limits([Limit(3, 2, None, process.book.free_micros + room, None, None)])
    platform.flush(process)
    platform.ledger()
    audit = platform.oracle.audit(platform.engine, {3: 2})
    paid = 4_000 if room == 4_000 else 0
    assert (audit.spend_micros, audit.late_micros, audit.lost) == (paid, 4_000 - paid, 0)
    assert (audit.late_charged_micros, audit.value_micros, audit.overspend_micros) == (paid, int(bool(paid)), 0)


@pytest.mark.parametrize("skew_ms", [-600_000, 600_000])
def test_a_clock_that_is_minutes_off_makes_no_bid_late(platform: Platform, skew_ms: int) -> None:
    right, wrong = platform.start("right"), platform.start("wrong", skew_ms)
    for _ in range(3):
        bid(platform, right, 2_000)
        bid(platform, wrong, 2_000)
        platform.ledger()
        sync(platform, right, wrong)
        platform.world.at_ms += 1_000
    for sender, receiver in ((right, wrong), (wrong, right)):
        made = bid(platform, sender, 2_000)
        assert made is not None
        tell(platform, receiver, made, NoticeKind.BILL, 1_500)
        platform.ledger()
        sync(platform, right, wrong)
    assert spend(platform) == 3_000 or skew_ms > 0
    bid(platform, right, 2_000)  # the log's time is the fastest clock's by now, and bids and promises follow it
    sync(platform, right)
    made = bid(platform, right, 2_000)
    assert made is not None
    tell(platform, right, made, NoticeKind.BILL, 1_500)
    assert platform.oracle.effects[-1].late_micros == 0


def test_a_clock_set_back_does_not_hold_reserved_money(platform: Platform) -> None:
    process = platform.start("bidder", 300_000)
    bid(platform, process, 5_000)
    sync(platform, process)
    made = bid(platform, process, 5_000)
    assert made is not None
    tell(platform, process, made, NoticeKind.LOSS)
    process.clock.skew_ms = 0
    for _ in range(3):
        platform.world.at_ms += 1_000
        platform.ledger()
        sync(platform, process)
    assert process.book.reservations == 0


def test_a_lowered_budget_stops_bids_at_the_next_sync(platform: Platform) -> None:
    process = platform.start("bidder")
    for _ in range(3):
        bid(platform, process, 1_000)
        sync(platform, process)
        platform.world.at_ms += 1_000
    assert bid(platform, process, 1_000) is not None
    platform.set_limits([Limit(3, 2, None, 500, None, None)])
    sync(platform, process)
    assert bid(platform, process, 1_000) is None
    sync(platform, process)
    platform.set_limits([Limit(3, 2, None, 50_000, None, None)])
    sync(platform, process)
    assert bid(platform, process, 1_000) is not None


def test_notices_given_less_time_close_no_lease_early(platform: Platform) -> None:
    """A holder with long-lived bids dies; its successor's live shorter. The old ones can still be charged."""
    old = platform.start("bidder")
    bid(platform, old, 5_000, 600_000)
    sync(platform, old)
    made = bid(platform, old, 5_000, 600_000)
    assert made is not None
    platform.kill(old)
    new = platform.start("bidder")
    for _ in range(10):
        platform.world.at_ms += 50_000
        bid(platform, new, 5_000, 5_000)
        sync(platform, new)
        platform.ledger()
        platform.reclaim()
    tell(platform, new, made, NoticeKind.BILL, 4_000)
    platform.ledger()
    assert platform.oracle.effects[-1].charged_micros == 4_000
