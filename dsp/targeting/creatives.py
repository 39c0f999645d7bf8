"""Groups of conditions on creatives, as rows over them: by value, who has it, who lacks it, who is indifferent."""

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dsp.catalog.entities import Creative
from dsp.catalog.reasons import Exclusion
from dsp.openrtb.opportunity import Opportunity
from dsp.targeting import bitmap
from dsp.targeting.bitmap import Bits, Words
from dsp.targeting.joint import Group
from dsp.targeting.rows import Conditions, Row, Value, compress, holders, union


class Owners:
    """Whose each creative is: `rows` are their line items', ascending, of `size` line items."""

    def __init__(self, rows: Sequence[int], size: int) -> None:
        self.size, self._creatives = size, len(rows)
        self._start = np.searchsorted(np.fromiter(rows, dtype=np.int64), np.arange(size + 1))

    def of(self, creatives: Words) -> Bits:
        """Return the line items with at least one of the creatives."""
        before = np.zeros(self._creatives + 1, dtype=np.int32)
        np.cumsum(bitmap.mask(creatives)[: self._creatives], out=before[1:])
        begun = before.take(self._start)
        return bitmap.to_bits(bitmap.from_mask(begun[1:] != begun[:-1]))


@dataclass(frozen=True, slots=True, eq=False)
class Fitting:
    """The creatives for which all conditions of a group hold, and whose they are. Equal to no other, however alike."""

    creatives: Words
    line_items: Bits


class Creatives(Group[Opportunity, Fitting]):
    """A group of conditions on `size` creatives."""

    def __init__(self, spelling: Callable[[Opportunity], Hashable], size: int, owners: Owners) -> None:
        everyone = bitmap.ones(size)
        super().__init__(spelling, everyone.nbytes + bitmap.ones(owners.size).nbytes)
        self.everyone, self.owners = Fitting(everyone, owners.of(everyone)), owners

    def fold(self, conditions: Conditions) -> Fitting:
        """Return those for which all conditions hold."""
        if not conditions.rows:
            return self.everyone
        words = conditions.intersection()
        return Fitting(words, self.owners.of(words))


def accept(reason: Exclusion, rows: Mapping[Value | None, Row], values: frozenset[Value], out: Conditions) -> None:
    """Require that a creative has one of the values, or none at all."""
    if rows:
        named = [rows[value] for value in values & rows.keys()]
        out.require(reason, union([rows[None], *named]))


def holding(size: int, held: Iterable[tuple[Value, int]]) -> dict[Value, Row]:
    """Return by value the row of the creatives that have it."""
    nothing = bitmap.zeros(size)
    return {value: compress(words, nothing) for value, (words,) in holders(size, held)}


def lacking(size: int, held: Iterable[tuple[Value, int]]) -> dict[Value, Row]:
    """Return by value the row of the creatives that lack it."""
    everything = bitmap.ones(size)
    return {value: compress(everything & ~words, everything) for value, (words,) in holders(size, held)}


def accepting(
    creatives: Sequence[Creative], values: Callable[[Creative], Collection[Value]]
) -> dict[Value | None, Row]:
    """Return the rows of every value and, under None, of the creatives without one; empty when no creative has any."""
    rows: dict[Value | None, Row] = {**holding(len(creatives), pairs(creatives, values))}
    if rows:
        indifferent = np.array([not values(one) for one in creatives], dtype=np.bool_)
        rows[None] = bitmap.from_mask(indifferent)
    return rows


def pairs(creatives: Sequence[Creative], values: Callable[[Creative], Iterable[Value]]) -> Iterable[tuple[Value, int]]:
    """Yield every value with the number of its creative."""
    return ((value, number) for number, one in enumerate(creatives) for value in values(one))
