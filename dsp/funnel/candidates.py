"""Array functions that lead from bitmaps to candidates: plain arrays in, plain arrays out."""

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from dsp.targeting.bitmap import Positions

_KEY = b"dsp.funnel.creative"
_ODD = np.uint64(0xD1342543DE82EF95)


def spans(rows: Positions, start: Positions) -> Positions:
    """Return the creatives of `rows`, row by row; those of line item i begin at `start[i]`, (N + 1,)."""
    first = start.take(rows)
    counts = start.take(rows + 1) - first
    return _ranges(first, counts, counts.cumsum() - counts)


def bounds_of(owners: Positions) -> Positions:
    """Return where each run of equal numbers begins, and where the last one ends, of an array of at least one."""
    size = owners.shape[0]
    bound = np.ones(size + 1, dtype=np.bool_)
    np.not_equal(owners[1:], owners[:-1], out=bound[1:size])
    bounds: Positions = bound.nonzero()[0]
    return bounds


def draw(
    creatives: Positions, first: Positions, counts: Positions, lots: NDArray[np.uint64], auction_id: str
) -> Positions:
    """Return one creative of each of K line items, whose creatives are `counts` (K,) of them from `first` (K,) on.

    Every creative of a line item has the same chance: the highest keyed hash of auction and creative wins, so a replay
    draws the same. `lots` are distinct, and so are their hashes.
    """
    begins = counts.cumsum() - counts
    creatives = creatives.take(_ranges(first, counts, begins))
    digest = blake2b(auction_id.encode("utf-8", "surrogatepass"), digest_size=8, key=_KEY).digest()
    drawn = (lots.take(creatives) ^ np.uint64(int.from_bytes(digest, "little"))) * _ODD
    best: Positions = creatives[drawn == np.maximum.reduceat(drawn, begins).repeat(counts)]
    return best


def _ranges(first: Positions, counts: Positions, begins: Positions) -> Positions:
    """counts[0] numbers from first[0] up, then counts[1] from first[1], and so on; run i begins at place begins[i]."""
    found: Positions = (first - begins).repeat(counts)
    found += np.arange(found.shape[0])
    return found
