"""Clauses of one dimension compiled to rows over line items, one a value that any clause names.

Three meanings of "the opportunity has these values" need three tables: `ValueTable` (one value or none), `TraitTable`
(all of the values are true of the impression) and `OfferTable` (the bidder may choose among the values).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from dsp.catalog.reasons import Exclusion
from dsp.catalog.rules import Clause
from dsp.targeting import bitmap
from dsp.targeting.bitmap import Words
from dsp.targeting.rows import Conditions, Row, compress, expand, holders, union

#: Clauses of one dimension by the row of their line item; rows without a clause are not in it.
Clauses = Mapping[int, Clause]


def includes(clauses: Clauses) -> Iterator[tuple[str, int]]:
    """Yield every included value with the row of its line item."""
    return ((value, row) for row, clause in clauses.items() for value in clause.include)


def excludes(clauses: Clauses) -> Iterator[tuple[str, int]]:
    """Yield every excluded value with the row of its line item."""
    return ((value, row) for row, clause in clauses.items() for value in clause.exclude)


def unrestricted(clauses: Clauses, size: int) -> Words:
    """Return the line items that include nothing in particular."""
    return _all_but((row for row, clause in clauses.items() if clause.include), size)


def _all_but(rows: Iterable[int], size: int) -> Words:
    mask = np.ones(size, dtype=np.bool_)
    mask[np.fromiter(rows, dtype=np.int64)] = False
    return bitmap.from_mask(mask)


class ValueTable:
    """A dimension of which an opportunity has one value, or none ("").

    `rows` are the line items that admit each value. Every other value is like none: it fails an include and passes an
    exclude, which is the row `default`.
    """

    def __init__(self, clauses: Clauses, size: int) -> None:
        default = unrestricted(clauses, size)
        self.default = default
        self.rows: dict[str, Row] = {
            value: compress((default | included) & ~excluded, default)
            for value, (included, excluded) in holders(size, includes(clauses), excludes(clauses))
        }
        #: Values by a number from 1 up; 0 stands for every other value.
        self.numbers = {value: number for number, value in enumerate(self.rows, start=1)}


class OfferTable(ValueTable):
    """A dimension whose values are offers to choose from: an excluded one is not taken, the others stay."""

    def admitting(self, values: Iterable[str]) -> Words:
        """Return the line items that admit at least one of the values; without any, those without an include."""
        return union([self.rows.get(value, self.default) for value in values] or [self.default])


class TraitTable:
    """A dimension of which an opportunity has any number of values, all true at once: one excluded value forbids."""

    def __init__(self, clauses: Clauses, size: int) -> None:
        nobody, everyone = bitmap.zeros(size), bitmap.ones(size)
        #: Every value that a clause names; no other makes a difference.
        self.named = frozenset(value for clause in clauses.values() for value in clause.include + clause.exclude)
        self._unrestricted = unrestricted(clauses, size)
        self._including: dict[str, Row] = {
            value: compress(included, nobody) for value, (included,) in holders(size, includes(clauses))
        }
        self._tolerating: dict[str, Row] = {
            value: compress(everyone & ~excluded, everyone) for value, (excluded,) in holders(size, excludes(clauses))
        }

    @classmethod
    def of_groups(cls, groups: Mapping[int, Sequence[str]], size: int) -> "TraitTable":
        """Return the table that wants one value of each row's group; an empty group is never satisfied."""
        table = cls({row: Clause(include=tuple(group)) for row, group in groups.items()}, size)
        table._unrestricted = _all_but(groups, size)
        return table

    def require(self, reason: Exclusion, values: frozenset[str], conditions: Conditions) -> None:
        """Add that a line item includes one of `values`, or includes nothing, and that it excludes none of them."""
        included = [self._including[value] for value in values & self._including.keys()]
        conditions.require(reason, union([self._unrestricted, *included]))
        for value in values & self._tolerating.keys():
            conditions.require(reason, expand(self._tolerating[value]))
