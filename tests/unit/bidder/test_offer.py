"""Candidates in the order in which they are tried."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bidder.offer import Candidates
from dsp.funnel import Selection
from dsp.openrtb.opportunity import DealOffer

DEAL = DealOffer(id="d", floor_micros_cpm=0, auction=1)


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=12))
def test_deals_go_first_then_the_dearest_then_the_first_and_what_must_not_bid_is_left_out(
    given: list[tuple[int, bool]],
) -> None:
    count = len(given)
    places, flags, none = np.arange(count), np.zeros(count, dtype=np.bool_), np.zeros(count)
    prices, deals = np.array([price for price, _ in given]), tuple(DEAL if deal else None for _, deal in given)
    selection = Selection(places, places, prices, flags, flags, deals)
    found = Candidates(selection, none, none, none, none, prices, places).preferred()
    expected = sorted((not deal, -price, number) for number, (price, deal) in enumerate(given) if price)
    assert list(found) == [number for _, _, number in expected]


def play(prices: list[int], money: list[int], deals: list[bool], floor: int = 0) -> tuple[list[tuple[int, int]], bool]:
    """Return (who bid what, whether anybody did), each candidate with so much money, prices in whole micros."""
    count = len(prices)
    places, flags, none = np.arange(count), np.zeros(count, dtype=np.bool_), np.zeros(count)
    offers = tuple(DEAL if deal else None for deal in deals)
    selection = Selection(places, places, np.full(count, floor * 1_000), flags, flags, offers)
    placed: list[tuple[int, int]] = []

    def take(candidates: Candidates, number: int, again: bool) -> int | None:
        price = int(candidates.price_micros_cpm[number]) // 1_000
        assert again == (price != prices[number])
        if price > money[number]:
            return money[number]
        placed.append((number, price))
        return None

    found = Candidates(selection, none, none, none, none, np.array(prices) * 1_000, places).place(take)
    return placed, found


def test_one_that_is_short_of_money_bids_what_it_has_unless_another_bids_more() -> None:
    assert play([9, 5], [9, 9], [False, False]) == ([(0, 9)], True)
    assert play([9, 5], [6, 9], [False, False]) == ([(0, 6)], True)
    assert play([9, 5], [4, 9], [False, False]) == ([(1, 5)], True)
    assert play([9, 8, 7], [3, 5, 4], [False, False, False]) == ([(1, 5)], True)
    assert play([9, 8], [0, 0], [False, False]) == ([], False)
    assert play([9, 8], [3, 4], [False, False], floor=5) == ([], False)


def test_a_deal_that_is_short_of_money_goes_before_the_open_auction_all_the_same() -> None:
    assert play([9, 5], [9, 2], [False, True]) == ([(1, 2)], True)
    assert play([9, 5, 4], [9, 2, 9], [False, True, True]) == ([(2, 4)], True)


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=8))
def test_the_most_that_anybody_can_pay_is_bid(given: list[tuple[int, int]]) -> None:
    prices, money = [price for price, _ in given], [one for _, one in given]
    placed, found = play(prices, money, [False] * len(given))
    payable = [min(price, one) for price, one in given]
    assert found == (max(payable) > 0)
    assert [price for _, price in placed] == [max(payable)][: int(found)]
