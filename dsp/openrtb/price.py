"""Price ciphers: how a clearing price travels in ${AUCTION_PRICE}, and the price we quote.

The encrypted form is the one that Google and, under other names, several other exchanges use: 28 bytes in unpadded
URL-safe base64, being a 16-byte initialisation vector, 8 bytes of price in micros XORed with HMAC-SHA1(encryption
key, vector), and 4 bytes of HMAC-SHA1(integrity key, price and vector).
"""

import binascii
import hmac
from base64 import b64decode, urlsafe_b64decode, urlsafe_b64encode
from typing import Protocol

from dsp.kernel.errors import InputError
from dsp.kernel.money import MICROS_PER_UNIT, Micros

PRICE_CIPHERS = ("plain", "google")
_VECTOR_BYTES = 16
_PRICE_BYTES = 8
_SIGNATURE_BYTES = 4
_TOKEN_BYTES = _VECTOR_BYTES + _PRICE_BYTES + _SIGNATURE_BYTES
_TOKEN_CHARS = 38
#: The currency is not known here, and 10,000 of a strong one are hundreds of millions of a weak one. The limit on
#: prices (PRICE_MICROS_CPM_MAX) holds once they are converted.
_PRICE_MAX = 1e9
#: What exchanges substitute where no price is known, as in creative scans (OpenRTB 4.4), which are no impressions.
_UNKNOWN = ("", "AUDIT", "-1")


class PriceCipher(Protocol):
    """Turns the text of a price macro into a price and back. Prices are CPM in the exchange's currency."""

    def decrypt(self, text: str) -> float:
        """Return the price; raises InputError (`price_missing`, `price_malformed`, `price_forged`, `price_absurd`)."""
        ...

    def encrypt(self, price: float, vector: bytes) -> str:
        """Return the text an exchange would send; `vector` is 16 bytes, unique for each price."""
        ...


class _Keys(Protocol):
    """The part of a profile that matters here."""

    @property
    def price_cipher(self) -> str: ...
    @property
    def price_encryption_key(self) -> str: ...
    @property
    def price_integrity_key(self) -> str: ...
    @property
    def price_encryption_key_before(self) -> str: ...
    @property
    def price_integrity_key_before(self) -> str: ...


class PlainPrice:
    """The price as a decimal number."""

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
    """The price encrypted and signed with two keys that the exchange gave us; one of those `before` is read as well."""

    def __init__(self, encryption_key: bytes, integrity_key: bytes, before: PriceCipher | None = None) -> None:
        self._encryption_key = encryption_key
        self._integrity_key = integrity_key
        self._before = before

    def decrypt(self, text: str) -> float:
        _refuse_unknown(text)
        data = _token_bytes(text)
        vector = data[:_VECTOR_BYTES]
        price = _xor(data[_VECTOR_BYTES : _VECTOR_BYTES + _PRICE_BYTES], self._pad(vector))
        if not hmac.compare_digest(self._signature(price, vector), data[-_SIGNATURE_BYTES:]):
            if self._before is not None:
                return self._before.decrypt(text)
            raise InputError("the price's signature does not match", reason="price_forged")
        return _sane(int.from_bytes(price, "big") / MICROS_PER_UNIT)

    def encrypt(self, price: float, vector: bytes) -> str:
        if len(vector) != _VECTOR_BYTES:
            raise ValueError("the vector must be 16 bytes")
        clear = round(price * MICROS_PER_UNIT).to_bytes(_PRICE_BYTES, "big")
        data = vector + _xor(clear, self._pad(vector)) + self._signature(clear, vector)
        return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")

    def _pad(self, vector: bytes) -> bytes:
        return hmac.digest(self._encryption_key, vector, "sha1")[:_PRICE_BYTES]

    def _signature(self, price: bytes, vector: bytes) -> bytes:
        return hmac.digest(self._integrity_key, price + vector, "sha1")[:_SIGNATURE_BYTES]


def cipher(profile: _Keys) -> PriceCipher:
    """Return the cipher a profile names."""
    if profile.price_cipher != "google":
        return PlainPrice()
    before = None
    if profile.price_encryption_key_before:
        before = _google(profile.price_encryption_key_before, profile.price_integrity_key_before)
    return _google(profile.price_encryption_key, profile.price_integrity_key, before)


def _google(encryption_key: str, integrity_key: str, before: PriceCipher | None = None) -> PriceCipher:
    return GooglePrice(key_from_text(encryption_key), key_from_text(integrity_key), before)


def key_from_text(text: str) -> bytes:
    """Return a key written in hexadecimal or in base64 (web-safe or not); nothing for text that is neither."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        pass
    try:
        standard = text.replace("-", "+").replace("_", "/").rstrip("=")
        return b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError):
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
    token = text.rstrip("=")
    if len(token) != _TOKEN_CHARS or not token.isascii():
        raise InputError("an encrypted price has 38 characters", reason="price_malformed")
    try:
        data = urlsafe_b64decode(token + "==")
    except (binascii.Error, ValueError) as fault:
        raise InputError("the encrypted price is not base64", reason="price_malformed") from fault
    if len(data) != _TOKEN_BYTES:  # the decoder drops characters outside the alphabet
        raise InputError("the encrypted price is not base64", reason="price_malformed")
    return data


def _sane(price: float) -> float:
    if not 0 <= price < _PRICE_MAX:
        raise InputError("the price is out of range", reason="price_absurd")
    return price


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))
