"""Money: rounding is monotone, so a clearing price at or below the bid never costs more than was reserved."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsp.kernel import money

prices = st.floats(min_value=0, max_value=10_000, allow_nan=False)


@given(prices, prices)
def test_a_lower_price_never_costs_more(one: float, two: float) -> None:
    low, high = sorted((one, two))
    costs = [money.cost_micros(money.price_micros_from_cpm(price)) for price in (low, high)]
    assert costs[0] <= costs[1]


@given(st.integers(0, money.PRICE_MICROS_CPM_MAX))
def test_the_wire_form_returns_the_same_price(price_micros_cpm: int) -> None:
    assert money.price_micros_from_cpm(money.cpm_from_price_micros(price_micros_cpm)) == price_micros_cpm


@pytest.mark.parametrize(("price_micros_cpm", "cost"), [(0, 0), (1, 1), (1_000, 1), (1_001, 2), (2_500_000, 2_500)])
def test_cost_rounds_up(price_micros_cpm: int, cost: int) -> None:
    assert money.cost_micros(price_micros_cpm) == cost


@pytest.mark.parametrize("price", [-0.01, float("nan"), float("inf"), 1e308, 10_001])
def test_absurd_prices_are_refused(price: float) -> None:
    with pytest.raises(ValueError, match="out of range"):
        money.price_micros_from_cpm(price)
