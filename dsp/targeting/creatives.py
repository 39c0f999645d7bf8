"""Groups of conditions on creatives, as rows over them: by value, who has it, who lacks it, who is indifferent."""

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic

import numpy as np

from dsp.catalog.entities import Creative
from dsp.catalog.reasons import Exclusion
from dsp.openrtb.opportunity import Opportunity
from dsp.targeting import bitmap
from dsp.targeting.bitmap import Bits, Words
from dsp.targeting.joint import Group
from dsp.targeting.rows import Conditions, Row, Value, compress, expand, holders, union


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


class Blocks(Generic[Value]):
    """Creatives by values that may be blocked: `rows` are those that lack each, `named` the values that some have."""

    def __init__(self, size: int, held: Iterable[tuple[Value, int]]) -> None:
        everything = bitmap.ones(size)
        self.rows: dict[Value, Row] = {
            value: compress(everything & ~words, everything) for value, (words,) in holders(size, held)
        }
        self.named = frozenset(self.rows)

    def require(self, reason: Exclusion, blocked: frozenset[Value], out: Conditions) -> None:
        """Require that a creative has none of the values."""
        for value in blocked & self.named:
            out.require(reason, expand(self.rows[value]))


class Choices(Generic[Value]):
    """Creatives by values of which some are accepted; `named` are those that some have, and who has none takes any."""

    def __init__(self, creatives: Sequence[Creative], values: Callable[[Creative], Collection[Value]]) -> None:
        self._rows = holding(len(creatives), pairs(creatives, values))
        self._indifferent = bitmap.from_mask(np.array([not values(one) for one in creatives], dtype=np.bool_))
        self.named = frozenset(self._rows)

    def require(self, reason: Exclusion, accepted: frozenset[Value], out: Conditions) -> None:
        """Require that a creative has one of the values, or none at all."""
        if self.named:
            out.require(reason, union([self._indifferent, *[self._rows[value] for value in accepted & self.named]]))


def holding(size: int, held: Iterable[tuple[Value, int]]) -> dict[Value, Row]:
    """Return by value the row of the creatives that have it."""
    nothing = bitmap.zeros(size)
    return {value: compress(words, nothing) for value, (words,) in holders(size, held)}


def pairs(creatives: Sequence[Creative], values: Callable[[Creative], Iterable[Value]]) -> Iterable[tuple[Value, int]]:
    """Yield every value with the number of its creative."""
    return ((value, number) for number, one in enumerate(creatives) for value in values(one))
