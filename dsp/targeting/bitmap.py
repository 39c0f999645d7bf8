"""Bitmaps as numpy uint64 words or as one integer, and the few operations on them that everything else is made of.

Bit i of a bitmap is bit i % 64 of word i // 64; bits beyond the last member are 0. Rows handed out are shared: never
write to one. As an integer (`Bits`) bit i is bit i: an AND costs a third of that of arrays while members are few
thousands, and whether anybody is left costs nothing, but no member can be picked out.
"""

import sys

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Bits = int
Positions = NDArray[np.int64]

if sys.byteorder != "little":
    raise ImportError("bitmaps are packed byte by byte, lowest byte first: a little-endian machine is needed")

_WORD_BITS, _WORD_BYTES = 64, 8
#: Of so many words all are unpacked, which is as fast as finding out which matter.
_FEW_WORDS = 384


def zeros(size: int) -> Words:
    """Return the empty bitmap for `size` members; it has at least one word, so that reductions are defined."""
    return np.zeros(_width(size), dtype=np.uint64)


def ones(size: int) -> Words:
    """Return the bitmap of all `size` members."""
    return from_mask(np.ones(size, dtype=np.bool_))


def from_mask(mask: NDArray[np.bool_]) -> Words:
    """Return the bitmap of the true elements of a bool array, shape (size,)."""
    words = zeros(mask.shape[0])
    packed = np.packbits(mask, bitorder="little")
    words.view(np.uint8)[: packed.shape[0]] = packed
    return words


def to_bits(words: Words) -> Bits:
    """Return a bitmap as an integer."""
    return int.from_bytes(words.tobytes(), "little")


def from_bits(bits: Bits, size: int) -> Words:
    """Return the bitmap for `size` members that an integer is, to read."""
    return np.frombuffer(bits.to_bytes(_width(size) * _WORD_BYTES, "little"), dtype=np.uint64)


def positions(words: Words) -> Positions:
    """Return the members in ascending order, int64. Work follows the nonzero words, not the size."""
    if words.shape[0] <= _FEW_WORDS:
        few: Positions = mask(words).nonzero()[0]
        return few
    filled = words.nonzero()[0]
    bits = mask(words[filled]).nonzero()[0]
    members: Positions = (filled[bits >> 6] << 6) + (bits & 63)
    return members


def mask(words: Words) -> NDArray[np.bool_]:
    """Return the bitmap as one bool a member, and some more at the end; any int64 positions can be taken from it."""
    return np.unpackbits(words.view(np.uint8), bitorder="little").view(np.bool_)


def held(words: Words, places: Positions) -> NDArray[np.bool_]:
    """Return which of `places`, any positions, are members; same shape. Work follows the places, not the size."""
    if words.shape[0] <= _FEW_WORDS:
        return mask(words).take(places)
    octets = words.view(np.uint8).take(places >> 3)
    return ((octets >> (places & 7).astype(np.uint8)) & 1).view(np.bool_)


def _width(size: int) -> int:
    return max(1, -(-size // _WORD_BITS))
