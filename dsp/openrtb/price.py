"""Price ciphers: how a clearing price travels in ${AUCTION_PRICE}, and the price we quote.

The encrypted form is the one that Google and, under other names, several other exchanges use: 28 bytes in unpadded
URL-safe base64, being a 16-byte initialisation vector, 8 bytes of price in micros XORed with HMAC-SHA1(encryption
key, vector), and 4 bytes of HMAC-SHA1(integrity key, price and vector). Those micros are what one impression costs with
Google and OpenX, and a CPM with others: to take one for the other is to be wrong by a thousand.
"""

import hmac
from base64 import b64decode, urlsafe_b64decode, urlsafe_b64encode
from math import ceil
from typing import Protocol

from dsp.kernel.errors import InputError
from dsp.kernel.money import IMPRESSIONS_PER_MILLE, MICROS_PER_UNIT, Micros

#: By name of an encrypted form, for how many impressions its micros are.
ENCRYPTED = {"google": 1, "google_cpm": IMPRESSIONS_PER_MILLE}
PRICE_CIPHERS = ("plain", *ENCRYPTED)
#: Exchanges round prices in their own currency, as we did when we bid, by less than so many micros.
_ROUNDING_MICROS_CPM = 10
_VECTOR_BYTES = 16
_PRICE_BYTES = 8
_SIGNATURE_BYTES = 4
_TOKEN_BYTES = _VECTOR_BYTES + _PRICE_BYTES + _SIGNATURE_BYTES
#: The currency is not known here, and 10,000 of a strong one are hundreds of millions of a weak one. The limit on
#: prices (PRICE_MICROS_CPM_MAX) holds once they are converted.
_PRICE_MAX = 1e9
#: What exchanges substitute where no price is known, as in creative scans (OpenRTB 4.4), which are no impressions.
_UNKNOWN = ("", "AUDIT", "-1")


class PriceCipher(Protocol):
    """Turns the text of a price macro into a price and back. Prices are CPM in the exchange's currency.

    By less than `rounding_micros_cpm` a text may say more than the price was.
    """

    rounding_micros_cpm: Micros

    def decrypt(self, text: str) -> float:
        """Return the price; raises InputError (`price_missing`, `price_malformed`, `price_forged`, `price_absurd`)."""
        ...

    def encrypt(self, price: float, vector: bytes) -> str:
        """Return the text an exchange would send; `vector` is 16 bytes, unique for each price."""
        ...


class PlainPrice:
    """The price as a decimal number."""

    rounding_micros_cpm = _ROUNDING_MICROS_CPM

    def decrypt(self, text: str) -> float:
        _refuse_unknown(text)
        if len(text) > 32 or not text.isascii() or "_" in text:
            raise InputError("the price is not a number", reason="price_malformed")
        try:
            return _sane(float(text))
        except ValueError as fault:
            raise InputError("the price is not a number", reason="price_malformed") from fault

    def encrypt(self, price: float, vector: bytes) -> str:
        return f"{price:.6f}".rstrip("0").rstrip(".")


class GooglePrice:
    """The price encrypted and signed with two keys that the exchange gave us; one of those `before` is read as well.

    In clear it is the micros that so many `impressions` cost.
    """

    def __init__(
        self, encryption_key: bytes, integrity_key: bytes, before: PriceCipher | None = None, impressions: int = 1
    ) -> None:
        self._encryption_key = encryption_key
        self._integrity_key = integrity_key
        self._before = before
        self._micros_per_cpm = MICROS_PER_UNIT * impressions // IMPRESSIONS_PER_MILLE
        self.rounding_micros_cpm = max(_ROUNDING_MICROS_CPM, IMPRESSIONS_PER_MILLE // impressions)

    def decrypt(self, text: str) -> float:
        _refuse_unknown(text)
        data = _token_bytes(text)
        vector = data[:_VECTOR_BYTES]
        price = _xor(data[_VECTOR_BYTES : _VECTOR_BYTES + _PRICE_BYTES], self._pad(vector))
        if not hmac.compare_digest(self._signature(price, vector), data[-_SIGNATURE_BYTES:]):
            if self._before is not None:
                return self._before.decrypt(text)
            raise InputError("the price's signature does not match", reason="price_forged")
        return _sane(int.from_bytes(price, "big") / self._micros_per_cpm)

    def encrypt(self, price: float, vector: bytes) -> str:
        clear = ceil(price * self._micros_per_cpm - 1e-4).to_bytes(_PRICE_BYTES, "big")  # as `cost_micros` rounds
        data = vector + _xor(clear, self._pad(vector)) + self._signature(clear, vector)
        return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")

    def _pad(self, vector: bytes) -> bytes:
        return hmac.digest(self._encryption_key, vector, "sha1")[:_PRICE_BYTES]

    def _signature(self, price: bytes, vector: bytes) -> bytes:
        return hmac.digest(self._integrity_key, price + vector, "sha1")[:_SIGNATURE_BYTES]


def key_from_text(text: str) -> bytes:
    """Return a key written in hexadecimal or in base64 (web-safe or not); nothing for text that is neither."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        pass
    try:
        standard = text.replace("-", "+").replace("_", "/").rstrip("=")
        return b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except ValueError:
        return b""


def quote(price_micros_cpm: Micros, rate: float) -> float:
    """Return what to put in `bid.price`: a CPM in the quoted currency, `rate` being book units per unit of it.

    Six decimals, rounded to nearest: a price equal to a floor in whole micros comes out equal to the floor.
    """
    return round(price_micros_cpm / MICROS_PER_UNIT / rate, 6)


def _refuse_unknown(text: str) -> None:
    if text in _UNKNOWN or text.startswith(("${", "%%", "{")):
        raise InputError("no price was substituted", reason="price_missing")


def _token_bytes(text: str) -> bytes:
    try:
        data = urlsafe_b64decode(text.rstrip("=") + "==")
    except ValueError as fault:
        raise InputError("the encrypted price is not base64", reason="price_malformed") from fault
    if len(data) != _TOKEN_BYTES:
        raise InputError("an encrypted price has 28 bytes", reason="price_malformed")
    return data


def _sane(price: float) -> float:
    if not 0 <= price < _PRICE_MAX:
        raise InputError("the price is out of range", reason="price_absurd")
    return price


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))
