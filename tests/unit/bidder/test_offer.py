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
    found = Candidates(selection, none, none, none, prices, places).preferred()
    expected = sorted((not deal, -price, number) for number, (price, deal) in enumerate(given) if price)
    assert found == [number for _, _, number in expected]
