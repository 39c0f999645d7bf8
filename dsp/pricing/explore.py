"""Exploration: a few first-price bids are moved off the best price, so that the landscape is known around it too."""

from hashlib import blake2b
from typing import NamedTuple

#: What a chosen price is multiplied by, each equally often.
FACTORS = (0.5, 0.65, 0.8, 0.9, 1.1, 1.25, 1.45, 1.7)


class Jitter(NamedTuple):
    """A factor of the chosen price, and the probability with which that factor was drawn."""

    factor: float
    propensity: float


#: Of a bid that is not explored with: a second price, an agreed one.
UNMOVED = Jitter(1.0, 1.0)


class Explorer:
    """Draws which impressions are explored with, and how: with probability `share` one of FACTORS, else 1.

    The draw depends on nothing but the key and the ids. The key is a secret: exchanges choose the ids, and one that
    could tell would choose those that have us bid the most.
    """

    def __init__(self, key: bytes, share: float) -> None:
        self._keyed = blake2b(digest_size=8, key=key[:64])
        self._share = share

    def draw(self, auction_id: str, imp_id: str) -> Jitter:
        """Return the jitter of an impression's bids."""
        keyed, share = self._keyed.copy(), self._share
        keyed.update(f"{auction_id}\0{imp_id}".encode("utf-8", "surrogatepass"))
        uniform = int.from_bytes(keyed.digest(), "little") / 2.0**64
        if uniform >= share:
            return Jitter(1.0, 1.0 - share)
        place = min(int(uniform / share * len(FACTORS)), len(FACTORS) - 1)
        return Jitter(FACTORS[place], share / len(FACTORS))
