"""The law of every multiplier: a dual price that descends in log space until money flows as it should."""

from math import exp

import numpy as np
from numpy.typing import NDArray


def descend(level: float, spent: float, wanted: float, memory: float, fall_max: float, rise_max: float) -> float:
    """Return the log multiplier after one step of mirror descent on the budget's dual.

    The dual's gradient is what was wanted less what was spent (Balseiro, Lu, Mirrokni 2023: dual mirror descent with
    the entropy as mirror map, so the step is a factor). Lumpy spend is summed unsmoothed and averages out without lag.

    Args:
        level: log of the multiplier so far.
        spent: money spent in the step, any unit.
        wanted: money that should have been, same unit.
        memory: how much money spent too much lowers the multiplier by a factor of e; same unit, positive.
        fall_max: the most that the level falls, not negative.
        rise_max: the most that it rises, not negative.
    """
    return level + min(max((wanted - spent) / memory, -fall_max), rise_max)


def concave_bid(value: float, multiplier: float, left: float) -> float:
    """Return the most to pay for an impression out of what is left, given what the first unit of money is worth.

    Where spend grows in proportion to the multiplier, the value still to be had from money b grows as its logarithm,
    V(b) = (left / multiplier) log b. A purchase at p is worth it while V(b) - V(b - p) <= value, so
    p <= b (1 - exp(-multiplier value / b)): about multiplier x value where that is little of what is left, and never
    more than is left.
    """
    return left * (1.0 - exp(-multiplier * value / left)) if left > 0.0 else 0.0


def concave_bids(paced: NDArray[np.float64], left: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `concave_bid` of several at once: `paced`, value x multiplier, and what is left to each, (K,), finite."""
    shares = np.divide(paced, left, out=np.zeros(len(paced)), where=left > 0.0)
    return left * -np.expm1(-shares)
