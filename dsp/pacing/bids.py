"""What pacing leaves of a bid: its multiplier, chance below the lowest price that can win, and what is left of the day.

The multiplier is not bounded below: as long as lower bids win something, lower bids are how less is spent. Where they
would fall below a floor they win nothing at all, and there, and only there, auctions are left out by lot.
"""

import numpy as np
from numpy.typing import NDArray

from dsp.pacing.columns import ControlColumns
from dsp.pacing.dual import concave_bids
from dsp.pacing.throttle import passes

#: A bid that pacing takes to a share s of the floor is lifted to the floor in s to this power of all auctions. Spend
#: then falls with the multiplier at floors as it does elsewhere, which a controller needs. The larger, the fewer
#: impressions are bought for more than they are worth now, and the more abruptly spend answers to the multiplier.
STEEPNESS = 4
#: By how much a lifted bid clears the floor, so that no rounding on its way takes it below.
_CLEAR = 1.01
#: A bid is cut down where it is more than this share of what is left: below, that would take less than 1% off it.
_SIZEABLE = np.array(1 / 64)
#: What is left of the day is forgotten when it was told so long ago: with no word from the pacing worker bids go on
#: within their leases, and yesterday's end is not today's.
LEFT_AGE_MS_MAX = 60_000


def pace(
    value: NDArray[np.float64],
    rows: NDArray[np.intp],
    controls: ControlColumns,
    line_item_ids: NDArray[np.int64],
    floors: NDArray[np.int64] | NDArray[np.float64],
    bid_min: NDArray[np.int64] | NDArray[np.float64],
    lot: int,
    now_ms: int,
) -> NDArray[np.float64]:
    """Return what each candidate is to multiply its value by, float64 (K,); 0 keeps it out of this auction.

    Args:
        value: micros per thousand impressions, (K,).
        rows: the candidates' places among the N line items, (K,).
        controls: of all line items, (N,) each.
        line_item_ids: of all line items, (N,).
        floors: micros per thousand, (K,).
        bid_min: the candidates' own lowest bids, (K,), a floor like any other; 0 for none.
        lot: the impression's; each line item draws its own from it.
        now_ms: wall time.
    """
    multiplier, rates = thin(value, controls.multiplier.take(rows), floors, bid_min)
    if rates is not None:
        multiplier *= passes(lot, line_item_ids.take(rows), rates)
    if now_ms - controls.at_ms < LEFT_AGE_MS_MAX:
        paced = value * multiplier
        left = controls.left_micros_cpm.take(rows)
        sizeable = paced > left * _SIZEABLE
        if np.count_nonzero(sizeable):
            sizeable &= paced < np.inf
            multiplier[sizeable] = concave_bids(paced[sizeable], left[sizeable]) / value[sizeable]
    return multiplier


def thin(
    value: NDArray[np.float64],
    multiplier: NDArray[np.float64],
    floors: NDArray[np.int64] | NDArray[np.float64],
    bid_min: NDArray[np.int64] | NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Return (multipliers, pass rates), (K,) both: what pacing takes below the floor goes there, in some auctions.

    A candidate takes part in the auction with the probability of its pass rate; None where all do. A value that is
    below the floor in any case is not pacing's business, and stays there.
    """
    least = np.minimum(np.maximum(floors, bid_min), value)
    below = value * multiplier < least
    if not np.count_nonzero(below):
        return multiplier, None
    shares = np.divide(value * multiplier, least, out=np.ones(len(value)), where=below)
    lifted = np.minimum(np.maximum(floors * _CLEAR, bid_min), value)
    return np.divide(lifted, value, out=multiplier.copy(), where=below), shares**STEEPNESS
