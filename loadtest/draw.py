"""Randomness as a keyed hash: the same key gives the same numbers on every machine and every Python."""

from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate
from statistics import NormalDist
from struct import Struct
from typing import Generic, TypeVar

_WORDS = Struct("<8Q")
_UNIT = 2.0**-53
_NORMAL = NormalDist()

T = TypeVar("T")


class Weighted(Generic[T]):
    """A finite distribution over values, ready to be drawn from."""

    __slots__ = ("edges", "values")

    def __init__(self, pairs: Sequence[tuple[T, float]]) -> None:
        total = sum(weight for _, weight in pairs)
        self.values = tuple(value for value, _ in pairs)
        self.edges = tuple(edge / total for edge in accumulate(weight for _, weight in pairs))


class Draw:
    """A stream of numbers that its key alone determines."""

    __slots__ = ("_block", "_key", "_words")

    def __init__(self, *key: object) -> None:
        self._key = "|".join(map(str, key)).encode()
        self._block = 0
        self._words: list[int] = []

    def uniform(self) -> float:
        """Return a number in [0, 1)."""
        if not self._words:
            digest = blake2b(self._key, salt=self._block.to_bytes(16, "little")).digest()
            self._words = list(_WORDS.unpack(digest))
            self._block += 1
        return (self._words.pop() >> 11) * _UNIT

    def between(self, low: float, high: float) -> float:
        """Return a number in [low, high)."""
        return low + (high - low) * self.uniform()

    def integer(self, count: int) -> int:
        """Return a whole number from 0 to `count` - 1."""
        return int(self.uniform() * count)

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return self.uniform() < probability

    def normal(self) -> float:
        """Return a standard normal number."""
        return _NORMAL.inv_cdf(max(self.uniform(), 1e-12))

    def pick(self, values: Sequence[T]) -> T:
        """Return one of the values, all equally likely."""
        return values[self.integer(len(values))]

    def weighted(self, distribution: Weighted[T]) -> T:
        """Return one value of a distribution."""
        at = self.uniform()
        for edge, value in zip(distribution.edges, distribution.values, strict=True):
            if at < edge:
                return value
        return distribution.values[-1]
