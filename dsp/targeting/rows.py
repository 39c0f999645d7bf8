"""Many bitmaps of one size kept together: common ones dense in a matrix, rare ones as what sets them off from a base.

A value that few line items name differs from "no rule at all" in few words, so that lists of a hundred thousand sites
cost what they hold and not a full row each.
"""

from collections.abc import Hashable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from dsp.catalog.reasons import Exclusion
from dsp.targeting import bitmap
from dsp.targeting.bitmap import Words

Value = TypeVar("Value", bound=Hashable)

#: Rows of up to this many words are always dense: 4,096 line items, half a kilobyte a value.
_DENSE_WORDS = 64
#: A longer row is dense where it differs from its base in at least one word in so many.
_SPARSE_RATIO = 8
#: Gathering rows to reduce them at once pays from here on.
_REDUCE_ROWS = 5
#: Values whose rows are made at a time; bounds the memory that building takes.
_CHUNK = 512

_ORDER = {reason: number for number, reason in enumerate(Exclusion)}


class Sparse(NamedTuple):
    """A row as the words in which it differs from another."""

    base: Words
    places: NDArray[np.int64]
    words: Words


#: A row as it is kept.
Row = Words | Sparse


def compress(words: Words, base: Words) -> Row:
    """Return a row to keep; `base` is one that it may be kept as the difference from."""
    if words.shape[0] > _DENSE_WORDS:
        places = (words != base).nonzero()[0]
        if places.shape[0] * _SPARSE_RATIO < words.shape[0]:
            return Sparse(base, places, words[places])
    return words.copy()  # lest a row keep the array alive that it was made in


def expand(row: Row) -> Words:
    """Return a kept row to read."""
    if type(row) is not Sparse:
        return row  # type: ignore[return-value]
    words = row.base.copy()
    words[row.places] = row.words
    return words


def union(rows: list[Row]) -> Words:
    """Return the OR of one or more rows, to read."""
    if len(rows) == 1:
        return expand(rows[0])
    if len(rows) > _REDUCE_ROWS:
        out: Words = np.bitwise_or.reduce([expand(row) for row in rows])
        return out
    out = expand(rows[0]) | expand(rows[1])
    for row in rows[2:]:
        np.bitwise_or(out, expand(row), out)
    return out


def known(values: frozenset[Value], named: frozenset[Value]) -> frozenset[Value] | None:
    """Return those of the values that are named; None where no values at all, which mean no condition, are given."""
    return values & named if values else None


class Conditions:
    """What must hold: rows, each with its reason."""

    __slots__ = ("reasons", "rows")

    def __init__(self) -> None:
        self.reasons: list[Exclusion] = []
        self.rows: list[Words] = []

    def require(self, reason: Exclusion, row: Words) -> None:
        """Add a condition."""
        self.reasons.append(reason)
        self.rows.append(row)

    def intersection(self) -> Words:
        """Return the members for which all conditions, at least one, hold."""
        out: Words = np.bitwise_and.reduce(self.rows)
        return out

    def in_order(self) -> list[tuple[Exclusion, Words]]:
        """Return reasons with their rows in the order of the funnel."""
        return sorted(zip(self.reasons, self.rows, strict=True), key=lambda pair: _ORDER[pair[0]])


def holders(size: int, *lists: Iterable[tuple[Value, int]]) -> Iterator[tuple[Value, NDArray[np.uint64]]]:
    """Yield each value of any list with the bitmaps of the members that hold it, one a list, shape (lists, words)."""
    numbers: dict[Value, int] = {}
    # One row a pair: number of the value, list, member. Read one by one: other threads would wait for a call that made
    # them of a list.
    pairs = (
        number
        for which, pairs_of_list in enumerate(lists)
        for value, member in pairs_of_list
        for number in (numbers.setdefault(value, len(numbers)), which, member)
    )
    table = np.fromiter(pairs, dtype=np.int64).reshape(-1, 3)
    if not numbers:
        return
    table = table[np.argsort(table[:, 0], kind="stable")]
    values = list(numbers)
    width = bitmap.zeros(size).shape[0]
    for first in range(0, len(values), _CHUNK):
        chunk = values[first : first + _CHUNK]
        begin, end = np.searchsorted(table[:, 0], (first, first + len(chunk)))
        owners, which_list, members = table[begin:end].T
        out = np.zeros((len(chunk), len(lists), width), dtype=np.uint64)
        bits = np.uint64(1) << (members & 63).astype(np.uint64)
        np.bitwise_or.at(out, (owners - first, which_list, members >> 6), bits)
        yield from zip(chunk, out, strict=True)
