"""What is remembered of impressions that were alike: the creatives that fit them. Bounded in memory."""

from collections.abc import Sequence
from typing import NamedTuple

from dsp.catalog.reasons import Exclusion
from dsp.targeting.bitmap import Positions, Words

#: Numbers that all entries together may hold: 16 MB of int64.
_NUMBERS_MAX = 2_000_000
#: What an entry costs beside its arrays, in numbers: its key and its objects.
_ENTRY_NUMBERS = 250


class Fit(NamedTuple):
    """The creatives that fit an impression, at least one, and whose they are. Shared: never write to its arrays."""

    creatives: Positions  # ascending, (F,)
    line_items: Positions  # whose they are, ascending, (K,)
    first: Positions  # where the creatives of each begin, (K,)
    counts: Positions  # how many there are of each, (K,)


class Memo:
    """Fits, or why there are none, by the rows that led to them: the very arrays, which are kept, not equal ones.

    All are forgotten when they grow too many or the line items alive change.
    """

    __slots__ = ("_found", "_live", "_numbers")

    def __init__(self) -> None:
        self._live: Words | None = None
        self._numbers = 0
        self._found: dict[tuple[int, ...], tuple[Sequence[Words], Fit | Exclusion]] = {}

    def get(self, rows: Sequence[Words], live: Words) -> Fit | Exclusion | None:
        """Return what was found while the very same bitmap of line items was alive."""
        found = self._found.get(tuple(map(id, rows))) if self._live is live else None
        return found[1] if found is not None else None

    def put(self, rows: Sequence[Words], live: Words, found: Fit | Exclusion) -> None:
        """Remember what was found."""
        numbers = _ENTRY_NUMBERS + sum([row.shape[0] for row in rows])  # nobody else may keep them any more
        numbers += len(found.creatives) + 3 * len(found.line_items) if isinstance(found, Fit) else 0
        self._numbers += numbers
        if self._live is not live or self._numbers > _NUMBERS_MAX:
            self._found, self._live, self._numbers = {}, live, numbers
        self._found[tuple(map(id, rows))] = (rows, found)
