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
    return _ranges(first, start.take(rows + 1) - first)


def ends_of(owners: Positions) -> Positions:
    """Return where each run of equal numbers ends in an array of at least one: the index of its last."""
    last = np.empty(owners.shape[0], dtype=np.bool_)
    last[-1] = True
    np.not_equal(owners[1:], owners[:-1], out=last[:-1])
    return last.nonzero()[0]


def draw(
    creatives: Positions,
    owners: Positions,
    ends: Positions,
    rows: Positions,
    lots: NDArray[np.uint64],
    auction_id: str,
) -> Positions:
    """Return one creative of each of `rows`, ascending line items that all are among `owners`, also ascending.

    Every creative of a line item has the same chance: the highest keyed hash of auction and creative wins, so a replay
    draws the same. `owners` are the creatives' line items, `ends` come from `ends_of` them; `lots` are distinct.
    """
    if rows.shape == owners.shape:
        return creatives
    if rows.shape[0] < ends.shape[0]:
        first = owners.searchsorted(rows)
        counts = owners.searchsorted(rows, side="right") - first
        creatives = creatives.take(_ranges(first, counts))
        owners = rows.repeat(counts)
        ends = counts.cumsum() - 1
    digest = blake2b(auction_id.encode("utf-8", "surrogatepass"), digest_size=8, key=_KEY).digest()
    drawn = (lots.take(creatives) ^ np.uint64(int.from_bytes(digest, "little"))) * _ODD
    # Sorted by line item and then by draw, the last of each line item is its highest.
    return creatives.take(np.lexsort((drawn, owners)).take(ends))


def _ranges(first: Positions, counts: Positions) -> Positions:
    """counts[0] numbers from first[0] up, then counts[1] from first[1], and so on."""
    found: Positions = (first - counts.cumsum() + counts).repeat(counts)
    found += np.arange(found.shape[0])
    return found
