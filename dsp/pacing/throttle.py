"""Whether a line item takes part in an auction at all: a draw against its pass rate."""

import numpy as np
from numpy.typing import NDArray

# Constants are arrays without dimensions: with few line items, half the time of a scalar operand is its conversion.
_GOLDEN = np.array(0x9E3779B97F4A7C15, dtype=np.uint64)
_MIX = tuple(np.array(one, dtype=np.uint64) for one in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_SHIFTS = tuple(np.array(one, dtype=np.uint64) for one in (30, 27, 31, 11))
_UNIT = np.array(2.0**-53)  # one step of a float64 in [0, 1) made of 53 random bits


def passes(lot: int, line_item_ids: NDArray[np.int64], pass_rates: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which line items (K,) take part in the auction, each with its probability `pass_rates` (K,).

    The draw depends on nothing but the impression's lot and the line item, and is independent between line items. A
    rate of 1 always passes, a rate of 0 never does.
    """
    # SplitMix64 (Steele, Lea, Flood 2014): every bit of the line item's id reaches every bit of the draw.
    mixed = line_item_ids.view(np.uint64) * _GOLDEN
    mixed += np.array(lot, dtype=np.uint64)
    mixed ^= mixed >> _SHIFTS[0]
    mixed *= _MIX[0]
    mixed ^= mixed >> _SHIFTS[1]
    mixed *= _MIX[1]
    mixed ^= mixed >> _SHIFTS[2]
    draws = (mixed >> _SHIFTS[3]).astype(np.float64) * _UNIT
    passed: NDArray[np.bool_] = draws < pass_rates
    return passed
