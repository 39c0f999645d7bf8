"""Clauses of one dimension compiled to bitmaps over line items, one row a value that any clause names.

Three meanings of "the opportunity has these values" need three tables: `ValueTable` (one value or none), `TraitTable`
(all of the values are true of the impression) and `OfferTable` (the bidder may choose among the values).
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np

from dsp.catalog.rules import Clause
from dsp.targeting import bitmap
from dsp.targeting.bitmap import Words

#: Clauses of one dimension by the row of their line item; rows without a clause are not in it.
Clauses = Mapping[int, Clause]


def _holders(pairs: Iterable[tuple[Hashable, int]], size: int) -> dict[Hashable, Words]:
    by_value: defaultdict[Hashable, list[int]] = defaultdict(list)
    for value, row in pairs:
        by_value[value].append(row)
    return {value: bitmap.from_positions(rows, size) for value, rows in by_value.items()}


def _unrestricted(clauses: Clauses, size: int) -> Words:
    mask = np.ones(size, dtype=np.bool_)
    mask[[row for row, clause in clauses.items() if clause.include]] = False
    return bitmap.from_mask(mask)


def _included(clauses: Clauses, size: int) -> dict[Hashable, Words]:
    return _holders(((value, row) for row, clause in clauses.items() for value in clause.include), size)


def _excluded(clauses: Clauses, size: int) -> dict[Hashable, Words]:
    return _holders(((value, row) for row, clause in clauses.items() for value in clause.exclude), size)


def _admitting(clauses: Clauses, size: int) -> tuple[Words, dict[Hashable, Words]]:
    """The rows of (no clause or no include), and of each value: include or unrestricted, and not exclude."""
    unrestricted, included, excluded = _unrestricted(clauses, size), _included(clauses, size), _excluded(clauses, size)
    nothing = bitmap.zeros(size)
    return unrestricted, {
        value: (unrestricted | included.get(value, nothing)) & ~excluded.get(value, nothing)
        for value in included.keys() | excluded.keys()
    }


class ValueTable:
    """A dimension of which an opportunity has one value, or none ("")."""

    def __init__(self, clauses: Clauses, size: int) -> None:
        self._unrestricted, self._rows = _admitting(clauses, size)

    def admitting(self, value: str) -> Words:
        """Return the line items that admit the value. An unknown value is like none: it only fails an include."""
        return self._rows.get(value, self._unrestricted)


class TraitTable:
    """A dimension of which an opportunity has any number of values, all true at once: one excluded value forbids."""

    def __init__(self, clauses: Clauses, size: int) -> None:
        self.unrestricted = _unrestricted(clauses, size)
        self._included = _included(clauses, size)
        self._excluded = _excluded(clauses, size)

    @classmethod
    def of_groups(cls, groups: Mapping[int, Sequence[str]], size: int) -> "TraitTable":
        """Return the table that wants one value of each row's group; an empty group is never satisfied."""
        table = cls({row: Clause(include=tuple(group)) for row, group in groups.items()}, size)
        mask = np.ones(size, dtype=np.bool_)
        mask[list(groups)] = False
        table.unrestricted = bitmap.from_mask(mask)
        return table

    def wanting(self, value: str) -> Words | None:
        """Return the line items that include the value and do not exclude it; None when none ever did."""
        row = self._included.get(value)
        excluded = self._excluded.get(value)
        return row if row is None or excluded is None else row & ~excluded

    def admitting(self, values: frozenset[str]) -> Words:
        """Return the line items with an included value among `values`, or no include, and no excluded value."""
        out = bitmap.union([self.unrestricted, *[self._included[value] for value in values & self._included.keys()]])
        for value in values & self._excluded.keys():
            out = out & ~self._excluded[value]
        return out


class OfferTable:
    """A dimension whose values are offers to choose from: an excluded one is not taken, the others stay."""

    def __init__(self, clauses: Clauses, size: int) -> None:
        self._unrestricted, self._rows = _admitting(clauses, size)

    def admitting(self, values: Iterable[str]) -> Words:
        """Return the line items that admit at least one of the values; without any, those without an include."""
        rows = [self._rows.get(value, self._unrestricted) for value in values]
        return bitmap.union(rows) if rows else self._unrestricted
