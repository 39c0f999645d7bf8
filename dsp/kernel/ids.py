"""Time-ordered identifiers, and the signed tokens that notice URLs carry.

A token is `sealed payload.tag` in unpadded URL-safe base64. Each notice kind has its own tag, so that a token seen in
a page's click URL cannot be replayed as a billing notice. The payload is sealed, for it says what the bid was worth to
us and who the user is, which are nobody else's business.
"""

import hmac
import os
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import sha256, shake_256
from typing import Any

from dsp.kernel.errors import TokenError

#: A tag is 144 bits, which is 24 characters without padding.
_TAG_BYTES, _TAG_CHARS = 18, 24
_VECTOR_BYTES = 18
_BLOCK_BYTES = 136  # of SHAKE256
TOKEN_CHARS_MAX = 2_048
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_STANDARD = bytes.maketrans(b"-_", b"+/")
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_RANDOM_CHARS = 16
_TIME_SHIFTS = range(45, -1, -5)
#: Five random bits of a byte as a character: 256 is a multiple of 32, so that each is as likely as the others.
_CHARACTERS = (_ALPHABET * 8).encode("ascii")
_POOL_IDS = 256
#: Random ends for the next ids; popping one is atomic, so that threads share it without a lock.
_pool: list[str] = []
# A forked child must not repeat its parent's ids.
os.register_at_fork(after_in_child=_pool.clear)


def new_id(now_ms: int) -> str:
    """Return 26 characters that sort by time: 48 bits of milliseconds, 80 random bits (the ULID layout)."""
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
    """Seals, signs and verifies notice tokens. One keyed hash makes the tags of every kind, so that a bid's cost one.

    The hash is SHAKE256 (FIPS 202) after a block that holds the key, as KMAC does it (NIST SP 800-185, 4). Each kind
    has its own part of the output, and no part tells anything of another. One more part is the vector that the payload
    is sealed with, by the same hash under a key of its own: a synthetic one (RFC 5297), as no two bids are alike.
    The first key signs; every key verifies, so that keys rotate without losing notices in flight. So do
    versions: tokens of the form before this one, whose payload was not sealed, are understood as well.
    """

    def __init__(self, keys: Sequence[bytes], kinds: Iterable[str]) -> None:
        if not keys or any(len(key) < 16 for key in keys):
            raise ValueError("at least one signing key of 16 bytes or more is needed")
        self._keyed = [_keyed(key) for key in keys]
        self._sealing = [_keyed(b"seal" + key) for key in keys]
        self._at = {kind: number * _TAG_CHARS for number, kind in enumerate(kinds)}
        self._bytes = _TAG_BYTES * len(self._at)

    def tokens(self, kinds: Iterable[str], payload: bytes) -> list[str]:
        """Return a payload's tokens of several of the signer's kinds."""
        vector, tags = self._tags(0, payload)
        encoded, at = _b64(vector + self._seal(0, vector, payload)), self._at
        return [f"{encoded}.{tags[at[kind] : at[kind] + _TAG_CHARS]}" for kind in kinds]

    def verify(self, kind: str, token: str) -> bytes:
        """Return the payload of a token of this kind.

        Raises:
            TokenError: malformed, oversized, signed by a foreign key or for another kind.
        """
        if len(token) > TOKEN_CHARS_MAX:
            raise TokenError("token too long", reason="token_oversized")
        encoded, dot, tag = token.partition(".")
        try:
            sealed = _unb64(encoded)
        except ValueError as fault:
            raise TokenError("token is not base64", reason="token_malformed") from fault
        if not dot or not token.isascii() or _b64(sealed) != encoded:
            raise TokenError("token has no signature, or is written otherwise", reason="token_malformed")
        at = self._at[kind]
        vector, sealed = sealed[:_VECTOR_BYTES], sealed[_VECTOR_BYTES:]
        for number in range(len(self._keyed)):
            payload = self._seal(number, vector, sealed)
            own, tags = self._tags(number, payload)
            if hmac.compare_digest(tags[at : at + _TAG_CHARS], tag) and hmac.compare_digest(own, vector):
                return payload
        for number in range(len(self._keyed)):
            if hmac.compare_digest(self._tags_unsealed(number, encoded)[at : at + _TAG_CHARS], tag):
                return _unb64(encoded)
        raise TokenError("token signature does not match", reason="token_forged")

    def _tags(self, number: int, payload: bytes) -> tuple[bytes, str]:
        """Return the vector, and the tags of every kind under one key, one after the other."""
        keyed = self._keyed[number].copy()
        keyed.update(payload)
        made = keyed.digest(_VECTOR_BYTES + self._bytes)
        return made[:_VECTOR_BYTES], _b64(made[_VECTOR_BYTES:])

    def _tags_unsealed(self, number: int, encoded: str) -> str:
        """Return the tags that versions made which did not seal: notices of their bids come for as long as conversions.

        No payload that is sealed is text, so neither form's tags are the other's.
        """
        keyed = self._keyed[number].copy()
        keyed.update(encoded.encode())
        return _b64(keyed.digest(self._bytes))

    def _seal(self, number: int, vector: bytes, text: bytes) -> bytes:
        """Return a payload sealed, or a sealed one opened: the same operation."""
        keyed, size = self._sealing[number].copy(), len(text)
        keyed.update(vector)
        return (int.from_bytes(text, "big") ^ int.from_bytes(keyed.digest(size), "big")).to_bytes(size, "big")


def _keyed(key: bytes) -> Any:
    return shake_256(sha256(key).digest().ljust(_BLOCK_BYTES, b"\0"))
