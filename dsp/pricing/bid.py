"""The price of a bid, from its value, the pacing multiplier, the floor and the kind of auction."""

import numpy as np
from numpy.typing import NDArray

from dsp.pricing.landscape import WinCurve
from dsp.pricing.shade import shade

#: A first-price bid that shading takes near the floor stays this much above it (one cent per thousand), so that
#: rounding in the exchange's currency does not put it below.
FLOOR_MARGIN_MICROS_CPM = 10_000

# Constants are arrays without dimensions: with few candidates, half the time of a scalar operand is its conversion.
_FLOOR_MARGIN = np.array(float(FLOOR_MARGIN_MICROS_CPM))
_ZERO, _INFINITE = np.array(0.0), np.array(np.inf)


def price(
    value: NDArray[np.float64],
    multiplier: NDArray[np.float64],
    floors: NDArray[np.int64] | NDArray[np.float64],
    first_price: NDArray[np.bool_],
    shading: WinCurve | float,
    bid_min: NDArray[np.int64] | NDArray[np.float64],
    bid_max: NDArray[np.int64] | NDArray[np.float64],
    fixed_price: NDArray[np.bool_] | None = None,
    jitter: float = 1.0,
) -> NDArray[np.int64]:
    """Return what each candidate bids in micros per thousand, int64 (K,); 0 where it must not bid.

    What a candidate may pay is value x multiplier, held between `bid_min` and `bid_max`; it never bids more. A second
    price auction gets all of it, a first price auction the price that leaves most surplus, or just above the floor if
    that is more, and a fixed price deal its price, which is the floor. Without value, or below the floor, there is no
    bid.

    Args:
        value: micros per thousand impressions, (K,); NaN, infinite or not positive values do not bid.
        multiplier: what pacing leaves of the value, (K,); 0 does not bid, whatever `bid_min` says.
        floors: micros per thousand, (K,); a bid at the floor is allowed (OpenRTB 2.6, 3.2.4 `bidfloor`).
        first_price: whether the winner pays its bid, (K,).
        shading: the impression's chances of winning in a first price auction; where they are not known, the share of
            the worth to bid.
        bid_min: the line items' lowest bids, (K,); 0 for none.
        bid_max: the line items' highest bids, (K,); at most `PRICE_MICROS_CPM_MAX`.
        fixed_price: whether the floor is an agreed price, (K,).
        jitter: what first prices are multiplied by, for exploration.
    """
    paced = value * multiplier
    # Made numbers of one kind once: an operation that has to do it takes longer than the conversion. Auctions give
    # such numbers already.
    lowest, least = bid_min.astype(np.float64, copy=False), floors.astype(np.float64, copy=False)
    worth = np.maximum(paced, lowest)
    np.minimum(worth, bid_max, out=worth)
    # A comparison with NaN is false, so a prediction that is none never bids.
    allowed = worth >= least
    allowed &= paced > _ZERO
    allowed &= paced < _INFINITE
    bid, firsts = worth, np.count_nonzero(first_price)
    if firsts:
        bid = shade(worth, least, shading) if isinstance(shading, WinCurve) else worth * shading
        if jitter != 1.0:
            bid *= jitter
        np.maximum(bid, lowest, out=bid)
        np.maximum(bid, least + _FLOOR_MARGIN, out=bid)
        np.minimum(bid, worth, out=bid)
        if firsts < first_price.shape[0]:
            bid = np.where(first_price, bid, worth)
    if fixed_price is not None and np.count_nonzero(fixed_price):
        bid = np.where(fixed_price, least, bid)
    prices = np.zeros(bid.shape, dtype=np.int64)
    np.copyto(prices, bid, "unsafe", allowed)
    return prices
