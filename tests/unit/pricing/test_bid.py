"""Bids: never above what may be paid, never below the floor, never for nothing."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsp.kernel.money import PRICE_MICROS_CPM_MAX
from dsp.pricing.bid import FLOOR_MARGIN_MICROS_CPM, price

USD = 1_000_000


def bid(**given: Any) -> int:
    fields = {
        "value": 4.0 * USD, "multiplier": 1.0, "floors": USD, "first_price": True, "shading": 0.7, "bid_min": 0,
        "bid_max": PRICE_MICROS_CPM_MAX, "fixed_price": False, **given,
    }  # fmt: skip
    columns = {
        name: np.array([value], dtype=np.bool_ if isinstance(value, bool) else None) for name, value in fields.items()
    }
    (result,) = price(**columns).tolist()
    return int(result)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, 2_800_000),
        ({"first_price": False}, 4_000_000),
        ({"multiplier": 0.5}, 1_400_000),
        ({"multiplier": 0.5, "first_price": False}, 2_000_000),
        ({"floors": 3_500_000}, 3_500_000 + FLOOR_MARGIN_MICROS_CPM),
        ({"floors": 3_999_999}, 4_000_000),
        ({"floors": 4_000_000}, 4_000_000),
        ({"floors": 4_000_001}, 0),
        ({"floors": 4_000_001, "first_price": False}, 0),
        ({"multiplier": 0.2}, 0),
        ({"bid_max": 3_000_000}, 2_100_000),
        ({"bid_max": 3_000_000, "first_price": False}, 3_000_000),
        ({"bid_max": 900_000}, 0),
        ({"bid_min": 5_000_000}, 5_000_000),
        ({"bid_min": 3_000_000}, 3_000_000),
        ({"bid_min": 5_000_000, "multiplier": 0.0}, 0),
        ({"value": 0.0, "floors": 0, "bid_min": 10}, 0),
        ({"value": -1.0, "floors": 0}, 0),
        ({"value": float("nan"), "floors": 0}, 0),
        ({"value": float("inf")}, 0),
        ({"value": 0.4, "floors": 0}, 0),
        ({"value": 1e30, "first_price": False}, PRICE_MICROS_CPM_MAX),
        ({"fixed_price": True, "first_price": False, "floors": 1_500_000}, 1_500_000),
        ({"fixed_price": True, "first_price": False, "floors": 4_500_000}, 0),
        ({"shading": 1.0}, 4_000_000),
        ({"jitter": 1.25}, 3_500_000),
        ({"jitter": 1.6}, 4_000_000),
        ({"jitter": 0.1}, USD + FLOOR_MARGIN_MICROS_CPM),
        ({"jitter": 0.5, "bid_min": 2_500_000}, 2_500_000),
        ({"jitter": 0.5, "first_price": False}, 4_000_000),
    ],
    ids=str,
)
def test_price(given: dict[str, Any], expected: int) -> None:
    assert bid(**given) == expected


def test_without_fixed_prices() -> None:
    one, two = np.array([4e6, 4e6]), np.array([1_000, 1_000])
    prices = price(one, np.ones(2), two, np.array([True, False]), 0.5, np.zeros(2, dtype=np.int64), np.full(2, 10**7))
    assert prices.tolist() == [2_000_000, 4_000_000]
    assert prices.dtype == np.int64


MICROS = st.integers(0, PRICE_MICROS_CPM_MAX)


@given(
    value=st.floats(allow_nan=True, allow_infinity=True),
    multiplier=st.floats(0, 1),
    floor=MICROS,
    first=st.booleans(),
    shading=st.floats(0, 1),
    bounds=st.tuples(MICROS, MICROS).map(sorted),
    fixed=st.booleans(),
    jitter=st.floats(0.5, 2.0),
)
def test_bounds_hold(
    value: float,
    multiplier: float,
    floor: int,
    first: bool,
    shading: float,
    bounds: list[int],
    fixed: bool,
    jitter: float,
) -> None:
    low, high = bounds
    with np.errstate(all="ignore"):
        result = bid(
            value=value, multiplier=multiplier, floors=floor, first_price=first and not fixed, shading=shading,
            bid_min=low, bid_max=high, fixed_price=fixed, jitter=jitter,
        )  # fmt: skip
        paced = value * multiplier
    assert result >= 0
    if result:
        assert floor <= result <= high
        assert result <= max(paced, low)
        assert paced > 0
        assert fixed or result >= low
