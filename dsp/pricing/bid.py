"""The price of a bid, from its value, the pacing multiplier, the floor and the kind of auction."""

import numpy as np
from numpy.typing import NDArray

#: A first-price bid that shading takes near the floor stays this much above it (one cent per thousand), so that
#: rounding in the exchange's currency does not put it below.
FLOOR_MARGIN_MICROS_CPM = 10_000


def price(
    value: NDArray[np.float64],
    multiplier: NDArray[np.float64],
    floors: NDArray[np.int64],
    first_price: NDArray[np.bool_],
    shade: NDArray[np.float64] | float,
    bid_min: NDArray[np.int64],
    bid_max: NDArray[np.int64],
    fixed_price: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Return what each candidate bids in micros per thousand, int64 (K,); 0 where it must not bid.

    What a candidate may pay is value x multiplier, held between `bid_min` and `bid_max`; it never bids more. A second
    price auction gets all of it, a first price auction `shade` (0 to 1) of it or just above the floor if that is more,
    and a fixed price deal its price, which is the floor. Without value, or below the floor, there is no bid.

    Args:
        value: micros per thousand impressions, (K,); NaN, infinite or not positive values do not bid.
        multiplier: what pacing leaves of the value, (K,); 0 does not bid, whatever `bid_min` says.
        floors: micros per thousand, (K,); a bid at the floor is allowed (OpenRTB 2.6, 3.2.4 `bidfloor`).
        first_price: whether the winner pays its bid, (K,).
        shade: share of the worth to bid in first price auctions, scalar or (K,).
        bid_min: the line items' lowest bids, (K,); 0 for none.
        bid_max: the line items' highest bids, (K,); at most `PRICE_MICROS_CPM_MAX`.
        fixed_price: whether the floor is an agreed price, (K,).
    """
    paced = value * multiplier
    worth = np.minimum(np.maximum(paced, bid_min), bid_max)
    shaded = np.maximum(np.maximum(worth * shade, floors + FLOOR_MARGIN_MICROS_CPM), bid_min)
    bid = np.where(first_price, np.minimum(shaded, worth), worth)
    if fixed_price is not None:
        bid = np.where(fixed_price, floors, bid)
    # A comparison with NaN is false, so a prediction that is none never bids.
    allowed = (paced > 0.0) & (paced < np.inf) & (worth >= floors)
    return np.where(allowed, bid, 0.0).astype(np.int64)
