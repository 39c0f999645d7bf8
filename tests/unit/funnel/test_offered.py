"""What a bid request offers, read away from the bidder, is what the bidder would read."""

import msgspec
import pytest

from dsp.funnel import offered
from dsp.kernel.config import Platform
from dsp.kernel.errors import InputError
from dsp.openrtb.profile import Profile

PROFILE = Profile(name="example", currencies=("EUR",))
#: The book is in euros, and nobody has said that a euro is worth a euro.
PLATFORM = Platform(currency="EUR", currency_rates={"USD": 0.9})


def _request(**imp: object) -> bytes:
    return msgspec.json.encode({"id": "a", "imp": [{"id": "1", "banner": {"w": 300, "h": 250}, **imp}]})


def test_the_currency_of_the_book_needs_no_rate() -> None:
    found, refused = offered(_request(bidfloor=1.5, bidfloorcur="EUR"), PROFILE, PLATFORM, 0)
    assert not refused
    assert [(one.currency, one.floor_micros_cpm) for one in found] == [("EUR", 1_500_000)]


def test_an_impression_whose_floor_cannot_be_converted_is_refused_with_the_reason() -> None:
    assert offered(_request(bidfloor=1.5, bidfloorcur="JPY"), PROFILE, PLATFORM, 0) == (
        [],
        [("1", "currency_unsupported")],
    )


def test_a_request_that_is_none_is_an_error() -> None:
    with pytest.raises(InputError):
        offered(b"{}", PROFILE, PLATFORM, 0)
