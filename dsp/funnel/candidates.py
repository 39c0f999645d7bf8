"""Array functions that lead from bitmaps to candidates: plain arrays in, plain arrays out."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsp.targeting.bitmap import Positions

_ODD = np.uint64(0xD1342543DE82EF95)


class Spans(NamedTuple):
    """The creatives of K line items, one line item after the other."""

    creatives: Positions
    begins: Positions  # where those of each begin, (K,)
    counts: Positions  # how many there are of each, (K,)


def spans(rows: Positions, start: Positions) -> Spans:
    """Return the creatives of `rows`, (K,); those of line item i begin at `start[i]`, (N + 1,)."""
    first = start.take(rows)
    counts = start[1:].take(rows) - first
    begins = counts.cumsum() - counts
    found: Positions = (first - begins).repeat(counts)
    found += np.arange(found.shape[0])
    return Spans(found, begins, counts)


def draw(some: Spans, fitting: NDArray[np.bool_], lots: NDArray[np.uint64], lot: int) -> Positions:
    """Return one fitting creative of each line item that has any; each line item has a creative.

    Every such creative of a line item has the same chance: the highest hash of its own lot and the impression's `lot`
    wins. `lots` are distinct, and so are their hashes.
    """
    drawn = (lots.take(some.creatives) ^ np.uint64(lot)) * _ODD * fitting
    best = drawn == np.maximum.reduceat(drawn, some.begins).repeat(some.counts)
    best &= fitting  # a hash may be 0 too
    chosen: Positions = some.creatives[best]
    return chosen
