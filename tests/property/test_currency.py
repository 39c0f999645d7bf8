"""Exchanges quote in currencies other than the book's: floors, bids and clearing prices there and back.

The rule: budgets, targets, bounds on bids and conversion values are in the book's currency, as is everything that
decides; amounts are converted where a request or notice comes in and where a bid goes out, at the rate that the bid's
token carries, so that a rate that changes between bid and notice changes nothing.
"""

from math import ceil

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bidder.prices import PriceReader
from dsp.kernel.money import MICROS_PER_UNIT, PRICE_MICROS_CPM_MAX, Micros, cost_micros
from dsp.openrtb.price import quote
from dsp.openrtb.profile import Profile
from tests.notices import FACTS

READER = PriceReader({"exchange": Profile(name="exchange", seat="dsp", billing="bill")})
#: Book units per unit of the exchange's: from a book in dinars and an exchange in rials to the reverse.
rates = st.floats(-5, 5).map(lambda power: 10.0**power)
prices = st.integers(1_000, PRICE_MICROS_CPM_MAX // 2)


def clearing(price_micros_cpm: Micros, rate: float, stated: float) -> Micros | None:
    facts = msgspec.structs.replace(
        FACTS,
        price_micros_cpm=price_micros_cpm,
        cost_micros_max=cost_micros(price_micros_cpm),
        currency="XTS",
        rate=rate,
    )
    return READER.clearing(facts, f"{stated:.6f}")


@given(price=prices, rate=rates)
def test_a_win_at_our_own_bid_bills_at_most_our_bid(price: int, rate: float) -> None:
    """An exchange of first prices states our bid as we quoted it: to refuse that would be to lose the notice."""
    quoted = quote(price, rate)
    found = clearing(price, rate, quoted)
    assert found is not None
    assert found <= price
    assert cost_micros(found) <= cost_micros(price)
    assert price - found <= ceil(rate) + 1  # no more is lost than the last decimal of the exchange's currency


@given(price=prices, rate=rates, share=st.floats(0.0, 1.0))
def test_what_a_cheaper_win_bills_is_its_price_in_the_book(price: int, rate: float, share: float) -> None:
    stated = float(f"{quote(price, rate) * share:.6f}")
    found = clearing(price, rate, stated)
    assert found is not None
    assert abs(found - min(stated * rate * MICROS_PER_UNIT, price)) <= 1
