"""Array functions on creatives grouped by their line item: plain arrays in, plain arrays out."""

from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsp.targeting.bitmap import Positions

_KEY = b"dsp.funnel.creative"
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


class Groups(NamedTuple):
    """M creatives of K line items: those of `rows[k]` are `creatives[begins[k]:begins[k] + counts[k]]`."""

    rows: Positions
    begins: Positions
    counts: Positions
    creatives: Positions


def spans(first: Positions, counts: Positions) -> Positions:
    """Return first[0], first[0] + 1, ..., counts[0] numbers in all, then those of first[1], and so on."""
    ends = counts.cumsum()
    shifts = np.repeat(first - ends + counts, counts)
    shifts += np.arange(shifts.shape[0])
    return shifts


def group(creatives: Positions, owners: Positions) -> Groups:
    """Return the groups of at least one creative; `owners` are their line items' rows, ascending."""
    size = owners.shape[0]
    changes = np.empty(size, dtype=np.bool_)
    changes[0] = True
    np.not_equal(owners[1:], owners[:-1], out=changes[1:])
    begins = changes.nonzero()[0]
    counts = np.empty_like(begins)
    np.subtract(begins[1:], begins[:-1], out=counts[:-1])
    counts[-1] = size - begins[-1]
    return Groups(owners[begins], begins, counts, creatives)


def take(groups: Groups, kept: Positions) -> Groups:
    """Return the groups at the indexes `kept`, ascending."""
    counts = groups.counts[kept]
    creatives = groups.creatives[spans(groups.begins[kept], counts)]
    return Groups(groups.rows[kept], counts.cumsum() - counts, counts, creatives)


def draw(groups: Groups, auction_id: str, creative_ids: NDArray[np.int64]) -> Positions:
    """Return one creative of each group, (K,): the one whose keyed hash with the auction is highest.

    Every creative of a line item is as likely as the others, and a replay draws the same.
    """
    if groups.creatives.shape == groups.rows.shape:
        return groups.creatives
    digest = blake2b(auction_id.encode("utf-8", "surrogatepass"), digest_size=8, key=_KEY).digest()
    # SplitMix64 is a bijection, so creatives of different ids never draw the same.
    mixed = creative_ids[groups.creatives].view(np.uint64) * _GOLDEN + np.uint64(int.from_bytes(digest, "little"))
    mixed = (mixed ^ (mixed >> _SHIFTS[0])) * _MIX[0]
    mixed = (mixed ^ (mixed >> _SHIFTS[1])) * _MIX[1]
    mixed ^= mixed >> _SHIFTS[2]
    highest = np.maximum.reduceat(mixed, groups.begins)
    drawn: Positions = groups.creatives[mixed == np.repeat(highest, groups.counts)]
    return drawn
