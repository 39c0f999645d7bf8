"""The lease book by itself: what it reserves, when it frees, what it asks for and gives back."""

import pytest

from dsp.ledger.lease import LeaseBook, LeaseTuning
from dsp.ledger.terms import (
    SILENCE_MS_MAX,
    LateClaim,
    LeaseReport,
    LeaseState,
    LeaseWant,
    closes_ms,
    lease_id,
    lease_parts,
)

ITEM, DAY = 3, 20_000
LEASE = f"1-{ITEM}-{DAY}"
EXPIRES_MS = 100_000


def report(granted: int, settled: int = 0, watermark_ms: int = 0) -> LeaseReport:
    return LeaseReport([LeaseState(LEASE, ITEM, DAY, granted, settled)], watermark_ms)


def granted(micros: int, at_ms: int = 0) -> LeaseBook:
    book = LeaseBook(1)
    assert book.reserve(ITEM, DAY, "refused", 0, at_ms - 1, EXPIRES_MS) is None  # demand comes first
    book.wants(at_ms)
    book.apply(report(micros), at_ms)
    return book


def reserve(book: LeaseBook, bid_id: str, cost: int = 10, at_ms: int = 0) -> bool:
    return book.reserve(ITEM, DAY, bid_id, cost, at_ms, EXPIRES_MS) is not None


IDLE_MS = LeaseTuning().idle_ms


def test_nothing_is_reserved_without_a_lease() -> None:
    book = LeaseBook(1)
    assert book.reserve(ITEM, DAY, "a", 10, 0, EXPIRES_MS) is None
    assert book.wants(1_000) == [LeaseWant(ITEM, DAY, LeaseTuning().bids_min * 10)]


def test_reservations_stop_at_what_is_free() -> None:
    book = granted(25)
    assert book.reserve(ITEM, DAY, "a", 10, 0, EXPIRES_MS) == LEASE
    assert [reserve(book, "b"), reserve(book, "c"), reserve(book, "d", 5), reserve(book, "e", 1)] == [
        True,
        False,
        True,
        False,
    ]
    assert (book.free_micros, book.reserved_micros, book.reservations) == (0, 25, 3)


def test_a_negative_cost_or_a_bid_id_used_twice_is_refused() -> None:
    book = granted(100)
    assert not reserve(book, "a", -1)
    assert reserve(book, "a")
    assert not reserve(book, "a")
    assert book.reserved_micros == 10


def test_a_cancelled_bid_frees_at_once_and_only_once() -> None:
    book = granted(10)
    reserve(book, "a")
    book.cancel("a")
    book.cancel("a")
    assert book.free_micros == 10


@pytest.mark.parametrize(("outcome", "settled"), [("bill", 8), ("bill", 10), ("release", 0)])
def test_a_notice_frees_when_the_watermark_has_passed_it(outcome: str, settled: int) -> None:
    book = granted(10)
    reserve(book, "a")
    if outcome == "bill":
        book.bill("a", settled, 5_000)
    else:
        book.release("a", 5_000)
    assert book.free_micros == 0
    book.apply(report(10, settled, 5_000), 0)
    assert (book.free_micros, book.reserved_micros) == (0, 10)
    book.apply(report(10, settled, 5_001), 0)
    assert (book.free_micros, book.reserved_micros) == (10 - settled, 0)


def test_of_contradictory_notices_the_first_in_the_log_decides() -> None:
    book = granted(10)
    reserve(book, "a")
    book.release("a", 7_000)
    book.bill("a", 8, 5_000)
    book.apply(report(10, 8, 5_001), 0)
    assert (book.free_micros, book.reservations) == (2, 0)


def test_expired_reservations_free_once_nothing_more_can_be_billed_on_them() -> None:
    book = granted(10)
    assert reserve(book, "a", 4)
    assert reserve(book, "b", 6)
    book.apply(report(10, 0, closes_ms(EXPIRES_MS) - 1), 0)
    assert book.free_micros == 0
    book.apply(report(10, 0, closes_ms(EXPIRES_MS) + 1_024), 0)
    assert book.free_micros == 10


def test_bids_that_have_an_outcome_leave_nothing_behind() -> None:
    book = granted(100)
    for bid_id in ("cancelled", "billed", "lost", "expired"):
        assert reserve(book, bid_id)
    book.cancel("cancelled")
    for bid_id in ("cancelled", "billed", "another process's"):
        book.bill(bid_id, 10, 1_000)
    book.release("lost", 1_000)
    book.apply(report(100, 10, closes_ms(EXPIRES_MS) + 1_024), 0)
    assert (book.free_micros, book._reservations, book._noticed, book._buckets) == (90, {}, {}, {})


def test_a_bill_known_to_the_ledger_first_counts_twice_for_a_moment_never_zero_times() -> None:
    book = granted(20)
    reserve(book, "a")
    book.apply(report(20, 8, 4_000), 0)
    assert book.free_micros == 2  # settled 8, and 10 still reserved
    book.bill("a", 8, 3_000)
    book.apply(report(20, 8, 4_000), 0)
    assert book.free_micros == 12


def test_what_was_billed_is_not_free_between_the_steps_of_a_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsp.ledger.lease._STEP", 1)
    book = granted(100)
    assert reserve(book, "billed", 60)
    book.bill("billed", 60, 5)
    steps = sum(not reserve(book, "greedy", 60) for _ in book.applying(report(100, 60, 10), 1_000))
    assert steps == 3  # of the bid, the report and the lease
    assert book.free_micros == 40
    assert book.reserved_micros == 0


def test_a_lease_begun_between_the_steps_of_a_sync_is_asked_for_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsp.ledger.lease._STEP", 1)
    book = granted(100)
    for _ in book.wanting(1_000):
        book.reserve(8, 0, "another", 10, 1_000, 2_000)
    assert book.begun
    assert 8 in {want.line_item_id for want in book.wants(2_000)}


def test_billing_more_than_was_reserved_is_a_fault() -> None:
    book = granted(20)
    reserve(book, "a")
    with pytest.raises(ValueError, match="more than was reserved"):
        book.bill("a", 11, 1)
    book.bill("unknown", 11, 1)


def test_silence_stops_reservations_by_the_instant_the_sync_was_sent() -> None:
    book = granted(100, at_ms=1_000)
    last_ms = 1_000 + SILENCE_MS_MAX
    assert reserve(book, "a", at_ms=last_ms)
    assert not reserve(book, "b", at_ms=last_ms + 1)
    book.wants(last_ms + 1)
    book.apply(report(100), last_ms + 3_600_000)  # the process was paused before it saw the answer
    assert not reserve(book, "c", at_ms=last_ms + 3_600_000)
    assert reserve(book, "d", at_ms=last_ms + 2)


def test_a_failed_sync_keeps_what_it_returned_out_of_use_until_a_report_tells() -> None:
    book = granted(100)
    assert book.returns(60_000) == {LEASE: 100}
    assert book.returns(60_000) == {}
    assert not reserve(book, "a", 1)
    book.wants(0)
    book.apply(report(100), 0)  # the store had not heard of it
    assert reserve(book, "a", 1)


@pytest.mark.parametrize(("spare", "target"), [(0, 1_000), (40_000, 40_000), (10**9, 60_000)])
def test_money_asked_for_follows_the_rate_of_reservations_and_what_may_be_spared(spare: int, target: int) -> None:
    book = granted(0, at_ms=500)
    book.apply(LeaseReport([LeaseState(LEASE, ITEM, DAY, 1_500, 0, spare_micros=spare)], 0), 500)
    for number in range(100):
        reserve(book, str(number), at_ms=1_000)
    # 0.5 a millisecond: 2 seconds ahead, and where there is plenty, 2 minutes; 500 are free.
    assert book.wants(2_500) == [LeaseWant(ITEM, DAY, target - 500)]


@pytest.mark.parametrize("spare", [0, 10**9])
def test_what_a_dear_bid_needs_is_asked_for_and_goes_back_when_only_cheap_ones_follow(spare: int) -> None:
    book, held = LeaseBook(1, tuning=LeaseTuning(rare_syncs=5)), 0
    for second in range(200):
        for number, cost in enumerate([10] if second != 10 else [50_000, 10]):
            reserve(book, f"{second}-{number}", cost, 1_000 * second)
        wanted = sum(want.amount_micros for want in book.wants(1_000 * second))
        held += wanted - sum(book.returns(1_000 * second).values())
        state = LeaseState(LEASE, ITEM, DAY, held, 0, spare_micros=spare)
        book.apply(LeaseReport([state], 0), 1_000 * second)
        assert second != 11 or book.free_micros >= 90_000
    assert book.free_micros < 5_000


def test_the_dearest_of_recent_bids_says_how_much_is_needed() -> None:
    book = granted(0)
    for cost in (100, 10):
        reserve(book, str(cost), cost, at_ms=5_000)
    assert book.wants(10_000) == [LeaseWant(ITEM, DAY, LeaseTuning().bids_min * 100)]


def test_refused_reservations_count_as_demand_and_the_want_is_bounded() -> None:
    book = LeaseBook(1, tuning=LeaseTuning(want_micros_max=700))
    for number in range(100):
        reserve(book, str(number))
    assert book.wants(1_000) == [LeaseWant(ITEM, DAY, 700)]


def test_surplus_and_idle_money_goes_back_and_the_rest_stays() -> None:
    book = granted(1_000)
    for number in range(10):
        reserve(book, str(number))
    assert book.wants(1_000) == []  # 100 in a second: 200 cover the horizon
    assert book.returns(1_000) == {LEASE: 900 - 200}
    assert book.free_micros == 200
    assert book.returns(IDLE_MS) == {LEASE: 200}
    assert book.wants(IDLE_MS) == []


def test_a_line_item_asked_for_once_in_a_while_keeps_the_money_for_its_next_bid() -> None:
    book = LeaseBook(1)
    assert book.reserve(ITEM, DAY, "refused", 10, 0, EXPIRES_MS) is None
    for second in range(1, 120):
        wanted = sum(want.amount_micros for want in book.wants(second * 1_000))
        returned = sum(book.returns(second * 1_000).values())
        held = book.free_micros + wanted - returned
        book.apply(report(held), second * 1_000)
    assert book.reserve(ITEM, DAY, "next", 10, 120_000, EXPIRES_MS) == LEASE


def test_everything_free_goes_back_at_an_orderly_end() -> None:
    book = granted(100)
    reserve(book, "a", 30)
    book.wants(10)
    assert book.returns(10, everything=True) == {LEASE: 70}
    book.apply(report(30), 10)
    assert (book.free_micros, book.reserved_micros) == (0, 30)


def test_a_new_epoch_starts_with_nothing_and_ignores_the_old_ones_leases() -> None:
    book = granted(100)
    reserve(book, "a")
    book.adopt(2)
    book.wants(5)
    book.apply(report(100), 5)
    assert not reserve(book, "b")
    assert (book.free_micros, book.reservations, book.epoch) == (0, 0, 2)
    book.bill("a", 10, 1)  # a notice of an old bid concerns the ledger only


def test_a_lease_that_is_not_reported_any_more_has_nothing_free() -> None:
    book = granted(100)
    reserve(book, "a", 40)
    book.apply(LeaseReport([], 0), 0)
    assert (book.free_micros, book.reserved_micros) == (0, 40)
    book.apply(LeaseReport([], closes_ms(EXPIRES_MS) + 1_024), IDLE_MS)
    assert (book.free_micros, book.reserved_micros, book.wants(IDLE_MS)) == (0, 0, [])


def test_a_lease_stays_while_bids_hold_its_money_and_then_makes_room() -> None:
    book = LeaseBook(1, tuning=LeaseTuning(leases_max=1))
    assert not reserve(book, "refused")
    book.wants(0)
    book.apply(report(100), 0)
    assert reserve(book, "a", 40)
    book.apply(LeaseReport([], 0), IDLE_MS)
    book.apply(report(100), IDLE_MS)
    assert book.free_micros == 60
    book.apply(LeaseReport([], closes_ms(EXPIRES_MS) + 1_024), IDLE_MS)
    book.reserve(ITEM + 1, DAY, "b", 1, IDLE_MS, IDLE_MS)
    assert [want.line_item_id for want in book.wants(IDLE_MS)] == [ITEM + 1]


def test_bounds_refuse_rather_than_grow() -> None:
    book = LeaseBook(1, tuning=LeaseTuning(reservations_max=1, leases_max=1))
    assert not reserve(book, "refused")
    book.wants(0)
    book.apply(report(1_000), 0)
    assert reserve(book, "a")
    assert not reserve(book, "b")
    assert book.reserve(ITEM + 1, DAY, "c", 1, 0, EXPIRES_MS) is None
    assert [want.line_item_id for want in book.wants(1_000)] == []


def test_a_day_that_is_over_gives_its_money_back_at_once() -> None:
    book = granted(100)
    assert reserve(book, "a")
    book.reserve(ITEM, DAY + 1, "b", 10, 0, EXPIRES_MS)
    book.wants(1_000)
    assert book.returns(1_000) == {LEASE: 90}


def test_a_day_that_is_today_again_gets_money_again() -> None:
    """An advertiser's time zone was changed to one further west."""
    book = LeaseBook(1)
    book.reserve(ITEM, DAY + 1, "before", 10, 0, EXPIRES_MS)
    book.wants(0)
    book.reserve(ITEM, DAY, "a", 10, 500, EXPIRES_MS)
    assert LeaseWant(ITEM, DAY, 20) in book.wants(1_000)
    book.apply(report(20), 1_000)
    assert reserve(book, "b", at_ms=1_500)
    book.wants(2_000)
    assert LEASE not in book.returns(2_000)
    book.reserve(ITEM, DAY + 1, "midnight", 10, 2_500, EXPIRES_MS)
    book.wants(3_000)
    assert LEASE in book.returns(3_000)


def test_a_first_demand_asks_for_an_early_sync_and_a_refused_one_does_not() -> None:
    book = LeaseBook(1)
    assert not book.begun
    book.reserve(ITEM, DAY, "a", 10, 0, EXPIRES_MS)
    assert book.begun
    book.wants(50)
    book.apply(LeaseReport([], 0), 50)
    book.reserve(ITEM, DAY, "b", 10, 60, EXPIRES_MS)  # the budget is spent, say: no reason to ask more often
    assert not book.begun


def test_a_sync_promises_when_the_last_bid_expires_and_no_bid_breaks_the_promise() -> None:
    book = granted(100)
    promised_ms = book.expires_ms_max
    assert promised_ms >= EXPIRES_MS + SILENCE_MS_MAX

    def expires(bid_id: str, expires_at_ms: int) -> bool:
        return book.reserve(ITEM, DAY, bid_id, 10, 1_000, expires_at_ms) is not None

    assert expires("a", promised_ms)
    assert not expires("b", promised_ms + 1)  # the wall clock was set forward, or bids may take longer from now on
    book.wants(1_000)
    assert book.expires_ms_max >= promised_ms + 1 + SILENCE_MS_MAX
    assert not expires("b", promised_ms + 1)  # the store has not heard of the new promise yet
    book.apply(report(100), 1_000)
    assert expires("b", promised_ms + 1)


def test_bids_that_last_longer_are_made_once_in_a_while_beside_others_that_do_not() -> None:
    book = granted(100_000)
    hour_ms, made = 3_600_000, []
    for second in range(600):
        now_ms = 1_000 * second
        if second % 60 == 0:
            made.append(book.reserve(ITEM, DAY, f"long {second}", 10, now_ms, now_ms + hour_ms) is not None)
        assert book.reserve(ITEM, DAY, f"short {second}", 10, now_ms, now_ms + 60_000)
        book.wants(now_ms)
        book.apply(report(100_000), now_ms)
    assert made == [False, *[True] * 9]


def test_the_promise_follows_expiries_down_again_in_a_while_and_stands_without_bids() -> None:
    book = granted(100)
    asked_ms = EXPIRES_MS + 1  # ahead of the clock, a millisecond before it began
    for _ in range(3):
        book.wants(2 * IDLE_MS)
    assert book.expires_ms_max == asked_ms + 2 * IDLE_MS + SILENCE_MS_MAX
    for turn, longest_ms in ((3, asked_ms), (4, 49_000), (5, 49_000)):
        now_ms = turn * IDLE_MS
        book.reserve(ITEM, DAY, f"a {turn}", 10, now_ms, now_ms + 49_000)
        book.reserve(ITEM, DAY, f"short {turn}", 10, now_ms, now_ms + 20_000)
        book.wants(now_ms)
        assert book.expires_ms_max == longest_ms + now_ms + SILENCE_MS_MAX


def test_the_ledgers_time_goes_on_between_watermarks_and_never_back() -> None:
    book = LeaseBook(1)
    assert book.ledger_ms(10**9) < 0
    book.apply(report(0, 0, 500_000), 1_000)
    assert book.ledger_ms(1_700) == 500_700
    book.apply(report(0, 0, 500_000), 61_000)  # the ledger is away
    assert book.ledger_ms(61_000) == 560_000


def test_what_is_free_of_a_recalled_lease_goes_back_and_is_out_of_use_at_once() -> None:
    book = granted(100)
    assert reserve(book, "a", 30)
    recalled = LeaseReport([LeaseState(LEASE, ITEM, DAY, 100, 0, recalled=True)], 0)
    book.apply(recalled, 1_000)
    assert not reserve(book, "b", 1)
    assert book.returns(1_000) == {LEASE: 70}
    assert book.returns(1_000) == {}  # the store may have heard of it: never twice before a report
    book.wants(2_000)
    book.apply(LeaseReport([LeaseState(LEASE, ITEM, DAY, 30, 0)], 0), 2_000)
    assert (book.free_micros, book.reserved_micros) == (0, 30)
    book.apply(LeaseReport([LeaseState(LEASE, ITEM, DAY, 20, 0, recalled=True)], 0), 3_000)
    assert book.returns(3_000) == {}  # all of it is reserved
    book.apply(recalled, 4_000)
    book.apply(LeaseReport([], 0), 5_000)
    assert book.returns(5_000) == {}  # the store has nothing of it any more


def test_what_is_payable_is_what_is_free_while_the_lease_is_valid() -> None:
    book = granted(25)
    assert book.payable(ITEM, DAY, 0) == 25
    assert reserve(book, "a")
    assert book.payable(ITEM, DAY, 0) == 15
    assert book.payable(ITEM, DAY + 1, 0) == book.payable(ITEM + 1, DAY, 0) == 0
    assert book.payable(ITEM, DAY, SILENCE_MS_MAX) == 15
    assert book.payable(ITEM, DAY, SILENCE_MS_MAX + 1) == 0
    assert reserve(book, "b", 15)
    assert book.payable(ITEM, DAY, 0) == 0


def test_a_bid_that_is_cut_is_asked_for_once_and_in_full() -> None:
    whole, cut = granted(25), granted(25)
    for book in (whole, cut):
        assert not reserve(book, "a", 100)
    assert cut.reserve(ITEM, DAY, "a", 25, 0, EXPIRES_MS, again=True) == LEASE
    (want,) = whole.wants(1_000)
    (more,) = cut.wants(1_000)
    assert more.amount_micros == want.amount_micros + 25


def test_money_for_a_bid_that_is_worth_a_thousand_others_is_kept_where_there_is_plenty() -> None:
    """Dear bids that come once in minutes: the lease has the money for the next one, out of what may be spared."""
    book = LeaseBook(1)
    plenty, held = 1_000_000, 0
    for second in range(600):
        now_ms = 1_000 * second
        dear = second in (100, 500)
        made = reserve(book, f"b{second}", 50_000 if dear else 10, now_ms)
        if second == 500:
            assert made
        wanted = sum(want.amount_micros for want in book.wants(now_ms))
        held += wanted - sum(book.returns(now_ms).values())
        state = LeaseState(LEASE, ITEM, DAY, held, 0, spare_micros=(plenty - held) // 4)
        book.apply(LeaseReport([state], now_ms), now_ms)


def test_a_lease_s_name_tells_what_it_is_of() -> None:
    assert lease_parts(lease_id(7, 3, 20_000)) == (7, 3, 20_000)
    assert lease_parts(LateClaim(3, 2, 20_000, 10, 1, ()).lease_id) == (0, 3, 20_000)


@pytest.mark.parametrize("name", ["", "7", "7-3", "7-3-20000-1", "7--3-1", "7-x-20000", "7-3-²", "7-3-٣"])
def test_what_is_no_lease_s_name_tells_nothing(name: str) -> None:
    assert lease_parts(name) is None
