"""Shading: what to bid in a first-price auction for an impression of known worth, given the chance of winning."""

import numpy as np
from numpy.typing import NDArray

from dsp.pricing.landscape import WinCurve

_ONE = np.array(1.0)


def shade(worth: NDArray[np.float64], floors: NDArray[np.float64], curve: WinCurve) -> NDArray[np.float64]:
    """Return the bids that maximise the expected surplus (worth - b) F(b), in micros per thousand, float64 (K,).

    `worth` is what the impression is worth now, after the pacing duals, (K,): shading and pacing are one optimisation.
    No bid is above its worth. Prices below a candidate's own floor, (K,), which may be a deal's, are not considered.
    """
    prices, lines = curve
    terms = np.empty((2, len(worth)))
    terms[0], terms[1] = worth, _ONE
    surplus = terms.T.dot(lines)
    if np.count_nonzero(floors > prices[0, ...]):
        surplus[prices < floors[:, np.newaxis]] = -np.inf
    # Where no price leaves a surplus, the best is at or above the worth, and the worth is bid.
    bids: NDArray[np.float64] = prices.take(surplus.argmax(1))
    return np.minimum(bids, worth, out=bids)
