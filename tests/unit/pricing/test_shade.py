"""Shading: the best of the grid by brute force, never above the worth, never between a floor and below it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dsp.pricing.landscape import WinCurve
from dsp.pricing.shade import shade

PRICES = st.lists(st.integers(1, 300), min_size=1, max_size=20, unique=True).map(sorted)


def bids(worth: list[float], floors: list[int], prices: list[int], rates: list[float]) -> list[float]:
    curve = WinCurve.of(np.array(prices, dtype=np.float64), np.array(rates))
    return list(shade(np.array(worth), np.array(floors, dtype=np.float64), curve).tolist())


def test_the_surplus_is_the_largest() -> None:
    # (10 - 2) x 0.2 = 1.6, (10 - 4) x 0.5 = 3.0, (10 - 8) x 0.9 = 1.8
    assert bids([10.0, 30.0, 3.0], [0, 0, 0], [2, 4, 8], [0.2, 0.5, 0.9]) == [4.0, 8.0, 2.0]


def test_the_worth_is_bid_where_no_known_price_leaves_a_surplus() -> None:
    assert bids([1.5, 2.0], [0, 0], [2, 4], [0.2, 0.5]) == [1.5, 2.0]


def test_prices_below_a_deals_floor_are_not_considered() -> None:
    assert bids([10.0, 10.0], [2, 5], [2, 4, 8], [0.2, 0.5, 0.6]) == [4.0, 8.0]


def test_a_worth_that_is_none_or_no_number_leaves_the_others_alone() -> None:
    found = bids([10.0, 0.0, float("nan"), 30.0], [0, 0, 0, 0], [2, 4, 8], [0.2, 0.5, 0.9])
    assert (found[0], found[1], found[3]) == (4.0, 0.0, 8.0)


@given(prices=PRICES, worth=st.floats(0.5, 500.0), floor=st.integers(0, 200), data=st.data())
def test_no_price_does_better(prices: list[int], worth: float, floor: int, data: st.DataObject) -> None:
    steps = data.draw(st.lists(st.floats(0.01, 1.0), min_size=len(prices), max_size=len(prices)))
    rates = (np.cumsum(steps) / sum(steps)).tolist()
    (bid,) = bids([worth], [floor], prices, rates)
    allowed = [(price, rate) for price, rate in zip(prices, rates, strict=True) if price >= floor]
    best = max(((worth - price) * rate for price, rate in allowed), default=0.0)
    won = [rate for price, rate in allowed if price <= bid]
    assert bid <= worth
    if best > 1e-9:
        assert bid >= floor
        assert (worth - bid) * won[-1] >= best * (1 - 1e-9)
