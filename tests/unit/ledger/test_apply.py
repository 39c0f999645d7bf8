"""What notices mean in the book."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsp.events.schema import NoticeKind
from dsp.ledger.apply import entry
from dsp.ledger.book import Release, Response, Transaction
from dsp.ledger.terms import closes_ms
from tests.notices import FACTS, notice

CLOSES_MS = closes_ms(FACTS.expires_at_ms)


def test_a_billing_notice_charges_its_budget_and_owes_the_exchange() -> None:
    found = entry(notice(cost_micros=80), 6_000)
    assert isinstance(found, Transaction)
    assert found.postings == (("spend:3:20000", 80), ("payable:exchange", -80))
    assert (found.key, found.lease_id) == (("exchange", "auction-1", "1", "bill"), "7-3-20000")
    assert found.value_micros == FACTS.value_micros


def test_cost_and_response_fall_in_the_hour_of_the_bid_however_late_they_come() -> None:
    for begin_ms, hour in ((0, 0), (3_599_999, 0), (3_600_000, 1)):
        facts = msgspec.structs.replace(FACTS, bid_at_ms=begin_ms)
        for kind in (NoticeKind.BILL, NoticeKind.CLICK):
            found = entry(msgspec.structs.replace(notice(kind=kind), facts=facts, at_ms=9_999_999_999), 6_000)
            assert isinstance(found, Transaction | Response)
            assert (found.hour, found.creative_id, found.exchange) == (hour, FACTS.creative_id, FACTS.exchange)


@pytest.mark.parametrize("appended_ms", [CLOSES_MS, CLOSES_MS + 1])
def test_a_late_notice_is_owed_until_the_ledgers_own_lease_covers_it(appended_ms: int) -> None:
    found = entry(notice(cost_micros=80), appended_ms)
    assert isinstance(found, Transaction)
    assert found.postings == (("late:3:20000", 80), ("payable:exchange", -80))
    paid = found.covered_late()
    assert paid.postings == (("spend:3:20000", 80), ("payable:exchange", -80))
    assert (found.lease_id, paid.lease_id) == ("7-3-20000", "0-3-20000")


@pytest.mark.parametrize("late", [True, False])
def test_the_last_instant_is_not_late_whatever_the_clock_of_the_receiver_said(late: bool) -> None:
    found = entry(msgspec.structs.replace(notice(cost_micros=80), late=late), CLOSES_MS - 1)
    assert isinstance(found, Transaction)
    assert (found.charged_micros, found.late_micros) == (80, 0)


def test_what_exceeds_the_reservation_is_owed_but_not_charged() -> None:
    found = entry(notice(cost_micros=200), 6_000)
    assert isinstance(found, Transaction)
    assert found.postings == (("spend:3:20000", 100), ("late:3:20000", 100), ("payable:exchange", -200))
    assert found.claim_micros == 0
    late = entry(notice(cost_micros=200), CLOSES_MS)
    assert isinstance(late, Transaction)
    assert (late.charged_micros, late.late_micros, late.claim_micros) == (0, 200, 100)
    assert late.covered_late().postings == found.postings
    assert late.covered_late().claim_micros == 0  # claimed once


@pytest.mark.parametrize("kind", [NoticeKind.WIN, NoticeKind.IMPRESSION])
def test_a_notice_that_bills_nothing_is_not_entered(kind: NoticeKind) -> None:
    assert entry(notice(kind=kind, cost_micros=0), 6_000) is None
    assert entry(notice(kind=kind, cost_micros=-5), 6_000) is None


def test_a_click_is_a_response_on_the_day_of_its_bid() -> None:
    found = entry(notice(kind=NoticeKind.CLICK, cost_micros=0), 6_000)
    assert isinstance(found, Response)
    assert (found.key, found.line_item_id, found.day, found.value_micros) == (("bid-1", "click", 0), 3, 20_000, 0)


def test_a_conversion_carries_its_rule_and_value() -> None:
    one = msgspec.structs.replace(
        notice(kind=NoticeKind.CONVERSION, cost_micros=0), conversion_rule_id=9, value_micros=50
    )
    found = entry(one, 6_000)
    assert isinstance(found, Response)
    assert (found.key, found.value_micros) == (("bid-1", "conv", 9), 50)


@pytest.mark.parametrize("kind", [NoticeKind.CLICK, NoticeKind.CONVERSION])
def test_the_response_to_a_test_counts_nowhere(kind: NoticeKind) -> None:
    assert entry(notice(kind=kind, cost_micros=0, cost_micros_max=0), 6_000) is None
    assert entry(notice(kind=kind, cost_micros=0, cost_micros_max=1), 6_000) is not None


def test_a_loss_releases_until_the_bid_is_late_anyway() -> None:
    assert entry(notice(kind=NoticeKind.LOSS), 6_000) == Release("bid-1", CLOSES_MS)
    assert entry(notice(kind=NoticeKind.LOSS), CLOSES_MS) is None


@given(cost=st.integers(1, 10**12), cost_max=st.integers(-5, 10**12), late=st.booleans(), at_ms=st.integers(0, 10**5))
def test_postings_sum_to_zero_and_no_budget_pays_more_than_was_reserved(
    cost: int, cost_max: int, late: bool, at_ms: int
) -> None:
    found = entry(notice(cost_micros=cost, late=late, cost_micros_max=cost_max), at_ms)
    assert isinstance(found, Transaction)
    for one in (found, found.uncovered(), found.covered_late(), found.uncovered().covered_late()):
        assert sum(micros for _, micros in one.postings) == 0
        assert 0 <= one.charged_micros <= max(0, cost_max)
        assert one.charged_micros + one.late_micros == cost
    assert found.uncovered().charged_micros == 0
    assert found.uncovered().covered_late().charged_micros == min(cost, max(0, cost_max))


@pytest.mark.parametrize(("charged", "late"), [(0, 0), (-1, 5), (5, -1)])
def test_a_transaction_of_nothing_or_less_is_refused(charged: int, late: int) -> None:
    found = entry(notice(cost_micros=80), 6_000)
    assert isinstance(found, Transaction)
    with pytest.raises(ValueError, match="positive"):
        msgspec.structs.replace(found, charged_micros=charged, late_micros=late)
