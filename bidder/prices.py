"""Reads the prices that notices carry: decrypts, converts to the book's currency, and refuses what cannot be true."""

from collections.abc import Mapping

from dsp.events.schema import BidFacts
from dsp.kernel.errors import InputError
from dsp.kernel.money import Micros, price_micros_from_cpm
from dsp.openrtb.price import PlainPrice, PriceCipher
from dsp.openrtb.profile import Profile, cipher

#: How the macros of exchanges look when nobody replaced them, raw or percent-encoded.
_MACRO_MARKS = ("${", "%24%7B", "%24%7b", "%%", "{")
_PLAIN = PlainPrice()


class PriceReader:
    """Holds one cipher per exchange."""

    def __init__(self, profiles: Mapping[str, Profile]) -> None:
        self._ciphers = {name: cipher(profile) for name, profile in profiles.items()}

    def clearing(self, facts: BidFacts, text: str) -> Micros | None:
        """Return the clearing price in the book's currency, never above our bid; None where the notice states none.

        Raises:
            InputError: not a price of this exchange, or above our bid, which no auction can clear at.
        """
        if not text or text.startswith(_MACRO_MARKS):
            return None
        one = self._ciphers[facts.exchange]
        price = _micros(one, facts, text)
        # What rounding puts above our bid, in the exchange's currency or in the book's, is still our bid, and is billed
        # as that. A test costs nothing, whatever price its notices are tried out with.
        if facts.price_micros_cpm and price > facts.price_micros_cpm + one.rounding_micros_cpm * max(1.0, facts.rate):
            raise InputError("the price is above our bid", reason="price_above_bid")
        return min(price, facts.price_micros_cpm)

    def hint(self, facts: BidFacts, text: str) -> Micros | None:
        """Return a price that is only information, such as the minimum to win; None where it makes no sense."""
        # Some exchanges encrypt what we pay and send the rest in the clear.
        for one in (self._ciphers.get(facts.exchange, _PLAIN), _PLAIN):
            try:
                return _micros(one, facts, text)
            except InputError:
                continue
        return None


def _micros(one: PriceCipher, facts: BidFacts, text: str) -> Micros:
    try:
        return price_micros_from_cpm(one.decrypt(text) * facts.rate)
    except ValueError as fault:
        raise InputError(str(fault), reason="price_absurd") from fault
