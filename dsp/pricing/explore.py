"""Exploration: a few first-price bids are moved off the best price, so that the landscape is known around it too."""

from typing import NamedTuple

#: What a chosen price is multiplied by, each equally often.
FACTORS = (0.5, 0.65, 0.8, 0.9, 1.1, 1.25, 1.45, 1.7)


class Jitter(NamedTuple):
    """A factor of the chosen price, and the probability with which that factor was drawn."""

    factor: float
    propensity: float


#: Of a bid that is not explored with: a second price, an agreed one.
UNMOVED = Jitter(1.0, 1.0)


def draw(lot: int, share: float) -> Jitter:
    """Return the jitter of an impression's bids: with probability `share` one of FACTORS, else 1."""
    uniform = (lot >> 11) * 2.0**-53
    if uniform >= share:
        return Jitter(1.0, 1.0 - share)
    place = min(int(uniform / share * len(FACTORS)), len(FACTORS) - 1)
    return Jitter(FACTORS[place], share / len(FACTORS))
