"""Line items in tiers by score, so that the best of those recalled are found without looking at the others."""

import numpy as np
from numpy.typing import NDArray

from dsp.targeting import bitmap
from dsp.targeting.bitmap import Words

#: The highest tier holds about so many line items; each below it twice as many, the lowest all.
_TIER_MIN = 256


class Ranked:
    """Scores (N,), and a bitmap a tier: tier t holds all whose score is among the best N / 2**t, ties included."""

    __slots__ = ("score", "tiers")

    def __init__(self, score: NDArray[np.float64]) -> None:
        self.score = score
        size = score.shape[0]
        self.tiers: list[Words] = [bitmap.ones(size)]
        places = [size - (size >> tier) for tier in range(1, max(1, (size // _TIER_MIN).bit_length()))]
        if places:
            ordered = np.partition(score, places)
            self.tiers += [bitmap.from_mask(score >= ordered[place]) for place in places]

    def tier_of(self, members: int, wanted: int) -> int:
        """Return the highest tier that is likely to hold `wanted` of so many members."""
        share = members // wanted
        return min(max(share.bit_length() - 1, 0), len(self.tiers) - 1)


class Ranking:
    """Remembers what is ranked for the multipliers seen last; they change about once a second."""

    __slots__ = ("_memo", "_value")

    def __init__(self, value: NDArray[np.float64]) -> None:
        self._value = value
        self._memo: tuple[NDArray[np.float64], Ranked] | None = None

    def by(self, multiplier: NDArray[np.float64]) -> Ranked:
        """Return the line items ranked by value times multiplier (N,), which is read once: never write to it."""
        memo = self._memo
        if memo is None or memo[0] is not multiplier:
            memo = self._memo = (multiplier, Ranked(self._value * multiplier))
        return memo[1]
