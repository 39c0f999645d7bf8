"""Time-ordered identifiers, and the signed tokens that notice URLs carry.

A token is `payload.mac` in unpadded URL-safe base64. The MAC covers the notice kind as well as the payload, so
that a token seen in a page's click URL cannot be replayed as a billing notice.
"""

import hmac
import os
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256

from dsp.kernel.errors import TokenError

_MAC_BYTES = 16
_MAC_CHARS = 22
_GROUP_FILL = b"\0\0"
_GROUP_CHARS = 24
_BLOCK_BYTES = 64  # of SHA-256
TOKEN_CHARS_MAX = 2_048
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_STANDARD = bytes.maketrans(b"-_", b"+/")
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


_RANDOM_CHARS = 16
_TIME_SHIFTS = range(45, -1, -5)
_RANDOM_SHIFTS = range(75, -1, -5)
#: Five random bits of a byte as a character: 256 is a multiple of 32, so that each is as likely as the others.
_CHARACTERS = (_ALPHABET * 8).encode("ascii")
_POOL_IDS = 256
#: Random ends for the next ids; popping one is atomic, so that threads share it without a lock.
_pool: list[str] = []
# A forked child must not repeat its parent's ids.
os.register_at_fork(after_in_child=_pool.clear)


def new_id(now_ms: int, entropy: bytes | None = None) -> str:
    """Return 26 characters that sort by time: 48 bits of milliseconds, 80 random bits (the ULID layout).

    `entropy` gives the 10 random bytes where a run must be reproducible.
    """
    if entropy:
        value = int.from_bytes(entropy, "big")
        return _time(now_ms) + "".join([_ALPHABET[(value >> shift) & 31] for shift in _RANDOM_SHIFTS])
    try:
        return _time(now_ms) + _pool.pop()
    except IndexError:
        _pool.extend(_random())
        return new_id(now_ms)


@lru_cache(maxsize=16)
def _time(now_ms: int) -> str:
    return "".join([_ALPHABET[(now_ms >> shift) & 31] for shift in _TIME_SHIFTS])


def _random() -> list[str]:
    text = os.urandom(_POOL_IDS * _RANDOM_CHARS).translate(_CHARACTERS).decode("ascii")
    return [text[at : at + _RANDOM_CHARS] for at in range(0, len(text), _RANDOM_CHARS)]


def _b64(data: bytes) -> str:
    return b2a_base64(data, newline=False).translate(_URL_SAFE).rstrip(b"=").decode("ascii")


def _unb64(text: str) -> bytes:
    return a2b_base64(text.encode("ascii").translate(_STANDARD) + b"=" * (-len(text) % 4))


class TokenSigner:
    """Signs and verifies notice tokens with HMAC-SHA256.

    The first key signs; every key verifies, so that keys rotate without losing notices in flight.
    """

    def __init__(self, keys: list[bytes]) -> None:
        if not keys or any(len(key) < 16 for key in keys):
            raise ValueError("at least one signing key of 16 bytes or more is needed")
        self._macs = [_Mac(key) for key in keys]

    def encode(self, payload: bytes) -> str:
        """Return the payload's text form, shared by the tokens of every kind."""
        return _b64(payload)

    def sign(self, kind: str, encoded: str) -> str:
        """Return the token of one kind for a payload encoded by `encode`."""
        return f"{encoded}.{_b64(self._macs[0].of(kind, encoded))}"

    def tokens(self, kinds: Iterable[str], payload: bytes) -> list[str]:
        """Return a payload's tokens of several kinds, which `sign` would give one by one."""
        encoded = _b64(payload)
        of = self._macs[0].of
        # A group of 18 bytes is 24 characters without padding, of which the first 22 are the MAC's 16 bytes.
        macs = _b64(b"".join([of(kind, encoded) + _GROUP_FILL for kind in kinds]))
        return [f"{encoded}.{macs[at : at + _MAC_CHARS]}" for at in range(0, len(macs), _GROUP_CHARS)]

    def verify(self, kind: str, token: str) -> bytes:
        """Return the payload of a token of this kind.

        Raises:
            TokenError: malformed, oversized, signed by a foreign key or for another kind.
        """
        if len(token) > TOKEN_CHARS_MAX:
            raise TokenError("token too long", reason="token_oversized")
        encoded, dot, mac_text = token.partition(".")
        try:
            mac = _unb64(mac_text)
            payload = _unb64(encoded)
        except ValueError as fault:
            raise TokenError("token is not base64", reason="token_malformed") from fault
        if not dot or not token.isascii():
            raise TokenError("token has no signature", reason="token_malformed")
        for each in self._macs:
            if hmac.compare_digest(each.of(kind, encoded), mac):
                return payload
        raise TokenError("token signature does not match", reason="token_forged")


class _Mac:
    """HMAC-SHA256 (RFC 2104) with the key's two blocks hashed beforehand, for half the cost of `hmac.digest`."""

    def __init__(self, key: bytes) -> None:
        block = (key if len(key) <= _BLOCK_BYTES else sha256(key).digest()).ljust(_BLOCK_BYTES, b"\0")
        self._inner = sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = sha256(bytes(byte ^ 0x5C for byte in block))

    def of(self, kind: str, encoded: str) -> bytes:
        """Return the MAC of a token."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(f"{kind}|{encoded}".encode())
        outer.update(inner.digest())
        return outer.digest()[:_MAC_BYTES]
